"""The look of the pages that this package writes: one style sheet, light and dark, no font or script from anywhere."""

from __future__ import annotations

__all__ = ["CONTENT_POLICY", "STYLE"]

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A browser that honors it cannot be made to ask anybody for anything, whatever a file name smuggles into the page."""

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #ffffff; --ink: #1b2130; --soft: #626b7d; --line: #dfe3ea;
  --good: #12753f; --good-ground: #e2f4e9; --bad: #b3261e; --bad-ground: #fbe6e4; --mark: #2f5fd0; --hint: #fff6dc;
  --hint-line: #e0b93f; }
@media (prefers-color-scheme: dark) { :root { --ground: #12151c; --card: #1b1f29; --ink: #e6e9f0; --soft: #98a2b5;
  --line: #303747;
  --good: #6fd79b; --good-ground: #17342a; --bad: #ff8a80; --bad-ground: #40201f; --mark: #86a8ff; --hint: #332c17;
  --hint-line: #a98a2c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 0; letter-spacing: -.005em; overflow-wrap: anywhere; }
h3 { font-size: 14px; margin: 24px 0 10px; font-weight: 650; }
p { margin: 6px 0; } .soft { color: var(--soft); } .small { font-size: 13px; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin-top: 20px; }
.head { display: flex; gap: 12px; align-items: center; justify-content: space-between; flex-wrap: wrap; }
.badge { display: inline-block; padding: 2px 11px; border-radius: 999px; font-weight: 650; font-size: 13px;
  white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 650; }
.badge.good { background: var(--good-ground); } .badge.bad { background: var(--bad-ground); }
.private { border-left: 4px solid var(--hint-line); background: var(--hint); padding: 8px 14px; border-radius: 6px;
  margin-top: 18px; }
ul.hints { margin: 14px 0 0; padding: 10px 14px 10px 32px; border-radius: 6px; background: var(--hint);
  border-left: 4px solid var(--hint-line); }
ul.problems { margin: 14px 0 0; padding: 10px 14px 10px 32px; border-radius: 6px; background: var(--bad-ground);
  color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 12px; color: var(--soft); font-weight: 600; padding: 6px 12px 6px 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.name { min-width: 130px; overflow-wrap: anywhere; }
.num { text-align: right; white-space: nowrap; } .reason { color: var(--soft); font-size: 13px; min-width: 260px; }
.meter { width: 92px; height: 7px; border-radius: 4px; background: var(--line); overflow: hidden; margin-top: 8px; }
.meter i { display: block; height: 100%; background: var(--good); } .meter.over i { background: var(--bad); }
.columns { display: grid; grid-template-columns: 340px 1fr; gap: 28px; }
  @media (max-width: 860px) { .columns { grid-template-columns: 1fr; } }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 14px; }
figure { margin: 0; } .duo { display: flex; gap: 4px; } .duo img { width: calc(50% - 2px); }
img { display: block; width: 100%; border-radius: 5px; background: var(--line); }
figcaption { font-size: 12px; line-height: 1.45; margin-top: 5px; color: var(--soft); overflow-wrap: anywhere; }
  figcaption b { color: var(--ink); font-weight: 600; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 12px; }
svg { display: block; width: 100%; max-width: 340px; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.axis { stroke: var(--line); fill: none; } .ideal { stroke: var(--soft); stroke-dasharray: 4 4; }
.points { stroke: var(--mark); stroke-width: 3; stroke-linecap: round; stroke-opacity: .38; fill: none; }
details { margin-top: 14px; border-top: 1px solid var(--line); padding-top: 12px; } summary { cursor: pointer;
  font-size: 14px; font-weight: 600; color: var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 12px 0 0; } dt { color: var(--soft);
  } dd { margin: 0; overflow-wrap: anywhere; }
"""
