"""A training step's speed and memory by arithmetic: forward, cross entropy of every branch, backward, Adam."""

import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from reporting import begin

import hat


def main() -> None:
    session = begin(__doc__)
    batch = 64 if session.on_gpu else 4
    for name in session.steps(["tf32", "fp32", "bf16", "bf16_channels_last", "bf16_compiled", "checkpoint"]):
        if name == "bf16_compiled" and not session.on_gpu:
            session.report(name, skipped="compiling for a CPU takes longer than a rehearsal")
            continue
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "fp32"
        model = session.create_model().train().to(session.device)
        if name == "checkpoint":
            with tempfile.TemporaryDirectory() as folder:
                start = time.monotonic()
                hat.save_checkpoint(model, Path(folder) / "run")
                session.report(name, seconds=round(time.monotonic() - start, 2))
            continue
        durations, loss = measure(session, model, batch, name)
        peak = torch.cuda.max_memory_allocated() / 2**30 if session.on_gpu else 0
        speed = batch / statistics.median(durations)
        session.report(name, batch=batch, images_per_s=round(speed, 1), peak_gib=round(peak, 2), last_loss=loss)


def measure(session, model, batch, name):
    """Return the seconds of each step and the last loss."""
    layout = torch.channels_last if "channels_last" in name else torch.contiguous_format
    model = model.to(memory_format=layout)
    network = torch.compile(model) if "compiled" in name else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=session.on_gpu)
    images = torch.randn(batch, 3, *model.config.image_size, device=session.device).to(memory_format=layout)
    targets = torch.randint(0, 5, (batch,), device=session.device)
    last = torch.zeros((), device=session.device)
    if session.on_gpu:
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        nonlocal last
        autocast = torch.autocast(session.device, torch.bfloat16) if name.startswith("bf16") else nullcontext()
        with autocast:
            outputs = [branch.logits for branch in network(images).branches.values()]
            loss = torch.stack([F.cross_entropy(logits.float(), targets) for logits in outputs]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        last = loss.detach()

    durations = session.timed(step, share=0.12)
    return durations, round(last.item(), 3)


if __name__ == "__main__":
    main()
