"""How much of a model's speed is left over HTTP, and what happens when far too much is asked of it.

python benchmarks/service_load.py market.onnx --images crops [--images-per-request 1] [--json]

Measured with wrk, a program of its own in C (apt-get install wrk), over loopback, in this order:

- throughput at saturation as a share of `hat bench --end-to-end` of the same file, turn by turn in the same run, decoding
  counted on both sides and the client's own work counted against the service (bar: 0.85);
- latency at half of that load, with random pauses between requests;
- a soak: saturation for minutes, with the memory of the process sampled (bar: it does not grow by over 3 % or 16 MiB);
- overload: ten times what saturates, asked by ten times as many clients as the queue has room for; what is too much is answered
  with 503 (bar: 0.8 of the throughput is left), and then saturation is measured once more (bar: 0.9 of what it was before).

Everything is bounded in time: about (rounds x 3 + 3) x seconds + soak. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from measuring import MEBIBYTE, finish, one_sentence_errors
from serving import BOUNDARY, MemoryWatch, busy, form_body, read_metrics, resident_bytes, served, wait_until_idle

from hat.console import describe_machine
from hat.export.parity.candidate import choose_images, list_images

NUM_BODIES = 64

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary={boundary}"
wrk.headers["Accept"] = "{accept}"
local requests, place, pause_ms = {{}}, 0, {pause_ms}
function init(args)
  for number = 1, {num_bodies} do
    local file = io.open("{folder}/" .. number, "rb")
    requests[number] = wrk.format(nil, nil, nil, file:read("*a"))
    file:close()
  end
  math.randomseed({seed})
end
function request()
  place = place % #requests + 1
  return requests[place]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('RESULT {{"requests": %d, "seconds": %.6f, "refused": %d, "socket_errors": %d, "timeouts": %d, ' ..
    '"p50_s": %.6f, "p95_s": %.6f, "p99_s": %.6f, "max_s": %.6f}}\\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(95) / 1e6, latency:percentile(99) / 1e6, latency.max / 1e6))
end
"""

PAUSES = """
function delay()  -- exponential, so that requests come as from people who know nothing of each other
  return math.floor(-math.log(1 - math.random()) * pause_ms + 0.5)
end
"""


class Load:
    """Runs wrk against the service's `/v1/embed`."""

    def __init__(self, folder: Path, address: str, args: argparse.Namespace) -> None:
        self.folder, self.address, self.args = folder, address, args

    def run(self, connections: int, seconds: float, *, pause_ms: float = 0.0) -> dict[str, Any]:
        """One run; images answered in a second, latencies, and what went wrong."""
        script = SCRIPT.format(
            boundary=BOUNDARY,
            accept="application/x-npy" if self.args.npy else "application/json",
            pause_ms=pause_ms,
            num_bodies=NUM_BODIES,
            folder=self.folder,
            seed=self.args.seed,
        )
        path = self.folder / "load.lua"
        path.write_text(script + (PAUSES if pause_ms else ""))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(path)]
        before = read_metrics(self.address)
        done = subprocess.run([*command, f"{self.address}/v1/embed"], capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if line is None:
            sys.exit(f"wrk failed: {done.stdout}{done.stderr}")
        wait_until_idle(self.address)
        after = read_metrics(self.address)
        report = {**json.loads(line.removeprefix("RESULT ")), "connections": connections}
        good = report["requests"] - report["refused"]
        report["images_per_s"] = good * self.args.images_per_request / report["seconds"]
        statuses: Counter[str] = Counter()
        for name, value in after.items():
            # What is refused at the door never came as far as a route and counts as "other".
            if name.startswith(('hat_requests_total{action="embed"', 'hat_requests_total{action="other"')):
                statuses[name.split('status="')[1].split('"')[0]] += int(value - before.get(name, 0))
        report["statuses"] = dict(+statuses)
        runs = after["hat_batch_images_count"] - before["hat_batch_images_count"]
        report["images_per_run"] = (after["hat_batch_images_sum"] - before["hat_batch_images_sum"]) / max(1, runs)
        return report


def bench(args: argparse.Namespace) -> float:
    """Images in a second from files to embeddings in the library: the best of two batch sizes."""
    command = [sys.executable, "-m", "hat", "bench", args.artifact, "--end-to-end", "--images", args.images, "--json"]
    command += ["--batch", f"8,{args.batch}", "--rounds", "1", "--seconds", str(args.seconds)]
    command += ["--threads", str(args.threads)] if args.threads else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"hat bench failed with exit code {done.returncode}")
    speeds = json.loads(done.stdout)["candidates"][0]["speeds"]
    return max(speed["images_per_s"] for speed in speeds if speed["mode"] == "end-to-end")


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="a checkpoint or an exported file")
    parser.add_argument("--images", required=True, help="folder or zip file of crops")
    parser.add_argument("--images-per-request", type=int, default=1, help="(default %(default)s)")
    parser.add_argument("--npy", action="store_true", help="ask for NumPy files instead of JSON")
    parser.add_argument("--batch", type=int, default=32, help="most images in a run of the model (default %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the CPU that compute, on both sides")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--soak-seconds", type=float, default=180.0, help="(default %(default)s)")
    parser.add_argument("--min-share", type=float, default=0.85, help="bar of the throughput (default %(default)s)")
    parser.add_argument("--min-overload-share", type=float, default=0.8, help="bar under overload (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk (the load must come from a program that is not ours)")
    load_average = busy()
    queue = max(64, 2 * args.batch)
    saturating = max(2, queue // args.images_per_request)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = choose_images(list_images(args.images), NUM_BODIES * args.images_per_request, args.seed)
        write_bodies(folder, paths, args.images_per_request)
        options = ["--batch", str(args.batch), "--queue", str(queue), "--max-images", str(args.images_per_request)]
        options += ["--threads", str(args.threads)] if args.threads else []
        with served(args.artifact, *options) as service:
            load = Load(folder, service["address"], args)
            load.run(saturating, min(3.0, args.seconds))
            rounds = []
            for _ in range(args.rounds):
                library, answered = bench(args), load.run(saturating, args.seconds)
                rounds.append({"bench": library, "service": answered, "share": answered["images_per_s"] / library})
            full = statistics.median(one["service"]["images_per_s"] for one in rounds)
            half = half_load(load, full, args)
            before = resident_bytes(service["pid"])
            with MemoryWatch(service["pid"]) as memory:
                soak = load.run(saturating, args.soak_seconds)
            with MemoryWatch(service["pid"], 0.1) as crowded:
                pause_ms = min(200.0, 1000 * saturating * args.images_per_request / full)
                overload = load.run(10 * saturating, args.seconds, pause_ms=pause_ms)
            after = load.run(saturating, args.seconds)
    result = {
        "machine": describe_machine(),
        "load_average": load_average,
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        "runtime": service["runtime"],
        "share": statistics.median(one["share"] for one in rounds),
        "rounds": rounds,
        "half_load": half,
        "soak": {**soak, "growth_bytes": memory.growth_bytes(), "first_bytes": before, "peak_bytes": max(memory.samples)},
        "overload": {**overload, "peak_bytes": max(crowded.samples), "share": overload["images_per_s"] / full},
        "recovery": after["images_per_s"] / full,
    }
    missed = bars_missed(result, args)
    result["missed"] = missed
    result["passed"] = not missed
    finish(result, describe(result), args.json)


def write_bodies(folder: Path, paths: list[str], images_per_request: int) -> None:
    """The bodies of requests as files, which wrk reads before it starts."""
    from hat.data.archives import read_member, split_location

    data = []
    for path in paths:
        member = split_location(path)
        data.append(Path(path).read_bytes() if member is None else read_member(*member, max_bytes=2**24))
    for number in range(NUM_BODIES):
        chosen = [data[(number * images_per_request + place) % len(data)] for place in range(images_per_request)]
        (folder / str(number + 1)).write_bytes(form_body(chosen))


def half_load(load: Load, full: float, args: argparse.Namespace) -> dict[str, Any]:
    """Latency where half of what saturates is asked for: pauses are found that give that rate."""
    wanted = full / 2 / args.images_per_request
    connections = min(256, max(8, round(wanted)))
    pause_ms = 1000 * connections / wanted
    report = load.run(connections, args.seconds, pause_ms=pause_ms)
    # The first pauses leave out how long an answer takes; with that known, the rate is met.
    pause_ms = max(1.0, pause_ms - 1000 * report["p50_s"])
    return load.run(connections, args.seconds, pause_ms=pause_ms)


def bars_missed(result: dict[str, Any], args: argparse.Namespace) -> list[str]:
    soak, overload = result["soak"], result["overload"]
    # 499 is wrk's own end: it leaves without the answers that it still waited for.
    statuses = set(overload["statuses"]) - {"200", "503", "499"}
    checks = {
        f"share of the bench under {args.min_share}": result["share"] < args.min_share,
        "memory grew in the soak": soak["growth_bytes"] > max(16 * MEBIBYTE, 0.03 * soak["first_bytes"]),
        "an answer in the soak was not 200": not {"200"} <= set(soak["statuses"]) <= {"200", "499"},
        "overload was not answered with 503": not overload["statuses"].get("503"),
        f"throughput under overload below {args.min_overload_share}": overload["share"] < args.min_overload_share,
        f"overload was answered with {', '.join(sorted(statuses))}": bool(statuses),
        "clients lost their connection or waited in vain": overload["socket_errors"] + overload["timeouts"] > 0,
        "memory grew under overload": overload["peak_bytes"] > 1.2 * soak["peak_bytes"] + 64 * MEBIBYTE,
        "it did not recover": result["recovery"] < 0.9,
    }
    return [what for what, is_missed in checks.items() if is_missed]


def describe(result: dict[str, Any]) -> list[str]:
    half, soak, overload = result["half_load"], result["soak"], result["overload"]
    shares = ", ".join(f"{one['share']:.2f}" for one in result["rounds"])
    first = result["rounds"][0]
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(overload["statuses"].items()))
    return [
        f"{result['runtime']}, {result['settings']['images_per_request']} images a request; {result['machine']}",
        f"load average when it began: {result['load_average']:.1f} of {os.cpu_count()} cores",
        f"saturation   {first['service']['images_per_s']:8.1f} images/s, bench {first['bench']:.1f} (first round), "
        f"{first['service']['images_per_run']:.1f} images a run",
        f"share        {result['share']:8.2f} (rounds: {shares})",
        f"half load    {half['images_per_s']:8.1f} images/s: p50 {1000 * half['p50_s']:.1f} ms, "
        f"p95 {1000 * half['p95_s']:.1f} ms, p99 {1000 * half['p99_s']:.1f} ms",
        f"soak         {soak['requests']:8,} requests in {soak['seconds']:.0f} s: {soak['first_bytes'] / MEBIBYTE:.0f} MiB, "
        f"{soak['peak_bytes'] / MEBIBYTE:.0f} MiB at most, growth {soak['growth_bytes'] / MEBIBYTE:+.1f} MiB",
        f"overload     {overload['share']:8.2f} of the throughput, {overload['connections']} clients: {statuses}; "
        f"{overload['images_per_s']:.1f} images/s, peak {overload['peak_bytes'] / MEBIBYTE:.0f} MiB",
        f"recovery     {result['recovery']:8.2f} of the throughput before",
        *(f"missed: {what}" for what in result["missed"]),
    ]


if __name__ == "__main__":
    main()
