"""People on the page: tall cards with a readable caption, framed right or wrong where the identity is known."""

from collections.abc import Collection, Sequence

from hat.serve import Record
from hat.serve.gallery.identities import Identity
from hat.serve.gallery.records import AttributeValue
from hat.serve.search.searching import Match

from ..people import SampleQuery
from ..ranking import format_time
from ..session import Outcome, QueryImage, Timings
from .markup import data_uri, empty_state, escaped, plural

_TICK = '<svg class="hat-mark" viewBox="0 0 16 16" aria-hidden="true"><path d="M3.5 8.5l3 3 6-7"/></svg>'
_CROSS = '<svg class="hat-mark" viewBox="0 0 16 16" aria-hidden="true"><path d="M4.5 4.5l7 7m0-7l-7 7"/></svg>'


def person_name(pid: Identity | None, *, starts: bool = False) -> str:
    """Return an identity for people, as plain text: a name as it is, ``starts`` with a capital for any other."""
    if isinstance(pid, str):
        return pid
    return f"{'U' if starts else 'u'}nknown person" if pid is None else f"{'P' if starts else 'p'}erson {pid}"


def short_source(source: str) -> str:
    """Return the last part of where an image came from, escaped."""
    return escaped(source.replace("\\", "/").rstrip("/").rpartition("/")[2] or source)


def picture(jpeg: bytes | None, alt: str) -> str:
    """Return a person's picture, whole, in a tall frame; a plain frame where none is kept. ``alt`` is escaped already."""
    if jpeg is None:
        return f'<span class="hat-picture hat-blank" role="img" aria-label="{alt}; no picture is kept"></span>'
    return f'<span class="hat-picture"><img src="{data_uri(jpeg)}" alt="{alt}" draggable="false"></span>'


def verdict(pid: Identity | None, query_pid: Identity | None) -> tuple[str, str, str]:
    """Class, mark and spoken word of a match that is right or wrong; empty where one of the identities is not known."""
    if pid is None or query_pid is None:
        return "", "", ""
    if pid == query_pid:
        return " hat-right", _TICK, '<span class="hat-unseen">right</span>'
    return " hat-wrong", _CROSS, '<span class="hat-unseen">wrong</span>'


def match_cards(outcome: Outcome, chosen: int) -> str:
    """Return the ranked list: one card for each match, each a button that chooses it."""
    if not outcome.matches:
        return empty_state("Nobody passes the filter", "Allow more cameras, or a longer time.")
    cards = "".join(_match_card(outcome, place + 1, match, place == chosen) for place, match in enumerate(outcome.matches))
    return f'<ol class="hat-cards" data-choice="one">{cards}</ol>'


def outcome_summary(outcome: Outcome) -> str:
    """Return what was found, in a sentence, with what re-ranking changed."""
    shown = len(outcome.matches)
    parts = [f"<strong>{plural(shown, 'nearest image')}</strong> of {outcome.num_searched:,}"]
    if outcome.query_pid is not None and shown:
        parts.append(f"{outcome.num_right} of {shown} show {escaped(person_name(outcome.query_pid))}")
    if outcome.timings.rerank_s is not None:
        moved = sum(match.rank_before not in (None, rank) for rank, match in enumerate(outcome.matches, start=1))
        came = sum(match.rank_before is not None and match.rank_before > shown for match in outcome.matches)
        change = f"re-ranking moved {moved} of {shown}" if moved else "re-ranking changed nothing"
        parts.append(change + (f", {came} from below the list" if came else ""))
    return f'<p class="hat-summary" role="status">{" · ".join(parts)}</p>'


def timing_line(timings: Timings) -> str:
    """Return how long each step took."""
    steps = [("decode", timings.decode_s), ("embed", timings.embed_s), ("search", timings.search_s)]
    if timings.rerank_s is not None:
        steps.append(("re-rank", timings.rerank_s))
    cells = "".join(f"<div><dt>{name}</dt><dd>{_milliseconds(seconds)}</dd></div>" for name, seconds in steps)
    return f'<dl class="hat-timings" aria-label="Time of each step">{cells}</dl>'


def match_details(outcome: Outcome, chosen: int, chance: str = "") -> str:
    """Return all that is known of the chosen match; ``chance`` is trusted markup on what its similarity means."""
    if not 0 <= chosen < len(outcome.matches):
        return ""
    match = outcome.matches[chosen]
    record, before = match.record, match.rank_before
    facts: list[tuple[str, str]] = [
        ("rank", f"{chosen + 1}" + (f", by similarity alone {before}" if before not in (None, chosen + 1) else "")),
        ("similarity", f"{match.similarity:.4f}" + (f" · {chance}" if chance else "")),
    ]
    if match.distance is not None:
        facts.append(("re-ranked distance", f"{match.distance:.4f}"))
    facts += _record_facts(record)
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="hat-facts" aria-label="The chosen match">{rows}</dl>'


def query_tiles(queries: Sequence[QueryImage]) -> str:
    """Return the query's images, each with a button that takes it out."""
    if not queries:
        return ""
    tiles = "".join(
        f'<li class="hat-tile">{picture(query.picture, f"Query: {escaped(query.name)}")}'
        f'<button type="button" class="hat-remove" data-event="delete" data-index="{place}" '
        f'aria-label="Take {escaped(query.name)} out of the query">×</button>'
        f'<span class="hat-name" title="{escaped(query.name)}">{escaped(query.name)}</span></li>'
        for place, query in enumerate(queries)
    )
    return f'<ul class="hat-tiles" aria-label="Query">{tiles}</ul>'


def sample_strip(samples: Sequence[SampleQuery]) -> str:
    """Return queries to try, each a button."""
    if not samples:
        return ""
    tiles = "".join(
        f'<li><button type="button" class="hat-sample" data-event="select" data-index="{place}">'
        f"{picture(sample.picture, f'Search for person {sample.pid}, seen by camera {sample.camid}')}</button></li>"
        for place, sample in enumerate(samples)
    )
    label = '<p class="hat-label" id="hat-samples">Or try one of these</p>'
    return f'{label}<ul class="hat-strip" aria-labelledby="hat-samples">{tiles}</ul>'


def record_cards(records: Sequence[Record], marked: Collection[int], *, can_mark: bool) -> str:
    """Return records of a gallery, each a switch that marks it for removal."""
    cards = []
    for record in records:
        is_marked = record.id in marked
        alt = f"{escaped(person_name(record.pid))}, {_camera(record.camid)}, {short_source(record.source)}"
        inner = picture(record.thumbnail, alt) + _caption(
            escaped(person_name(record.pid, starts=True)), f"{_camera(record.camid)} · #{record.id}"
        )
        if can_mark:
            inner = (
                f'<button type="button" class="hat-card" data-event="select" '
                f'data-index="{record.id}" aria-pressed="{str(is_marked).lower()}" title="{short_source(record.source)}">'
                f"{inner}</button>"
            )
        else:
            inner = f'<div class="hat-card" title="{short_source(record.source)}">{inner}</div>'
        cards.append(f"<li>{inner}</li>")
    return f'<ul class="hat-cards hat-small" data-choice="many">{"".join(cards)}</ul>'


def _match_card(outcome: Outcome, rank: int, match: Match, is_chosen: bool) -> str:
    record = match.record
    kind, mark, spoken = verdict(record.pid, outcome.query_pid)
    person = escaped(person_name(record.pid, starts=True))
    alt = f"Rank {rank}: {escaped(person_name(record.pid))}, {_camera(record.camid)}"
    return (
        f'<li><button type="button" class="hat-card{kind}" data-event="select" data-index="{rank - 1}" '
        f'aria-pressed="{str(is_chosen).lower()}" title="{short_source(record.source)}">'
        f'<span class="hat-rank">{rank}</span>{mark}{picture(record.thumbnail, alt)}'
        f'<span class="hat-caption"><span class="hat-line"><span class="hat-value">{match.similarity:.3f}</span>'
        f"{_move(rank, match.rank_before, len(outcome.matches))}</span>"
        f'<span class="hat-quiet-text">{person}<br>{_camera(record.camid)}</span>{spoken}</span>'
        "</button></li>"
    )


def _move(rank: int, before: int | None, shown: int) -> str:
    """Return how many ranks a match went up or down by re-ranking."""
    if before is None or before == rank:
        return ""
    up = before > rank
    words = f"{'up' if up else 'down'} from rank {before}"
    fresh = " hat-fresh" if before > shown else ""
    return (
        f'<span class="hat-move {"hat-up" if up else "hat-down"}{fresh}" title="{words}"><span aria-hidden="true">'
        f'{"▲" if up else "▼"} {abs(before - rank)}</span><span class="hat-unseen">{words}</span></span>'
    )


def _caption(title: str, line: str) -> str:
    return f'<span class="hat-caption"><span class="hat-line">{title}</span><span class="hat-quiet-text">{line}</span></span>'


def _record_facts(record: Record) -> list[tuple[str, str]]:
    facts = [
        ("identity", escaped(person_name(record.pid))),
        ("camera", "unknown" if record.camid is None else str(record.camid)),
    ]
    if record.time_s is not None:
        facts.append(("seen", f"{format_time(record.time_s)} UTC"))
    facts += [(escaped(name), _attribute(value)) for name, value in list(record.attributes.items())[:12]]
    facts += [
        ("source", escaped(record.source)),
        ("enrolled", f"{format_time(record.enrolled_s)} UTC"),
        ("record", f"#{record.id}"),
    ]
    return facts


def _attribute(value: AttributeValue) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else escaped(value)


def _camera(camid: int | None) -> str:
    return "unknown camera" if camid is None else f"camera {camid}"


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
