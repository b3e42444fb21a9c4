"""What a gallery holds, at a glance: counts, cameras, identities, and how long it keeps them."""

from collections.abc import Mapping

from hat.serve import Gallery, GalleryCounts

from ..ranking import format_time
from .cards import person_name
from .markup import escaped, plural

_MOST_BARS = 5


def gallery_overview(counts: GalleryCounts, gallery: Gallery, *, is_kept: bool) -> str:
    """Numbers and bars of a gallery.

    Args:
        counts: How much it holds.
        gallery: The gallery.
        is_kept: Whether it outlasts the demo.
    """
    num_people = sum(pid is not None for pid in counts.by_pid)
    num_cameras = sum(camid is not None for camid in counts.by_camid)
    facts = [
        (f"{counts.num_records:,}", "images" if counts.num_records != 1 else "image"),
        (f"{num_people:,}", "people" if num_people != 1 else "person"),
        (f"{num_cameras:,}", "cameras" if num_cameras != 1 else "camera"),
    ]
    numbers = "".join(f'<div class="hat-stat"><dd>{value}</dd><dt>{name}</dt></div>' for value, name in facts)
    notes = [f"Embeddings of <strong>{escaped(gallery.binding.name)}</strong>, {gallery.binding.precision}"]
    if counts.first_seen_s is not None and counts.last_seen_s is not None:
        notes.append(f"seen {format_time(counts.first_seen_s)} to {format_time(counts.last_seen_s)} UTC")
    notes.append("kept until they are removed" if is_kept else "in a temporary file that goes with the demo")
    unknown = counts.by_pid.get(None, 0)
    if unknown:
        notes.append(f"{plural(unknown, 'image')} of unknown people")
    bars = count_bars(
        {f"camera {camid}" if camid is not None else "unknown": count for camid, count in _by_number(counts.by_camid)},
        "Images by camera",
    )
    people = count_bars(
        {person_name(pid): count for pid, count in sorted(counts.by_pid.items(), key=lambda one: -one[1]) if pid is not None},
        "Images by person, most first",
    )
    return (
        f'<dl class="hat-stats">{numbers}</dl><p class="hat-hint">{"; ".join(notes)}.</p>'
        f'<div class="hat-bar-groups">{bars}{people}</div>'
    )


def count_bars(counts: Mapping[str, int], title: str) -> str:
    """Horizontal bars of counts, the first few of many; names are escaped here."""
    if not counts:
        return ""
    most = max(counts.values())
    shown = list(counts.items())[:_MOST_BARS]
    rows = "".join(
        f'<div class="hat-bar"><dt>{escaped(name)}</dt><dd><span class="hat-track"><span class="hat-bar-fill" '
        f'style="width: {100 * count / most:.1f}%"></span></span><span>{count:,}</span></dd></div>'
        for name, count in shown
    )
    rest = len(counts) - len(shown)
    more = f'<p class="hat-hint">and {rest:,} more</p>' if rest else ""
    return f'<div><p class="hat-label">{title}</p><dl class="hat-bars">{rows}</dl>{more}</div>'


def _by_number(counts: Mapping[int | None, int]) -> list[tuple[int | None, int]]:
    return sorted(counts.items(), key=lambda one: (one[0] is None, one[0] or 0))
