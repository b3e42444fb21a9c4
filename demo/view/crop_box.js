// The crop box: drag on the picture to draw it, inside to move it, at its corner to size it; arrow keys do the same.
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const SMALLEST = 0.04;

const readBox = (box) => {
  const share = (name) => parseFloat(box.style[name]) / 100;
  return { left: share('left'), top: share('top'), width: share('width'), height: share('height') };
};

const writeBox = (box, wanted) => {
  const width = clamp(wanted.width, SMALLEST, 1);
  const height = clamp(wanted.height, SMALLEST, 1);
  const placed = { left: clamp(wanted.left, 0, 1 - width), top: clamp(wanted.top, 0, 1 - height), width, height };
  for (const [name, value] of Object.entries(placed)) box.style[name] = `${100 * value}%`;
};

let drag = null;

element.addEventListener('pointerdown', (press) => {
  const area = press.target.closest('.hat-crop-area');
  if (!area) return;
  press.preventDefault();
  const box = area.querySelector('.hat-crop-box');
  const frame = area.getBoundingClientRect();
  const kind = press.target.closest('.hat-crop-corner') ? 'size' : press.target.closest('.hat-crop-box') ? 'move' : 'draw';
  drag = { kind, area, box, frame, start: readBox(box), x: press.clientX, y: press.clientY };
  box.focus({ preventScroll: true });
  area.setPointerCapture(press.pointerId);
});

element.addEventListener('pointermove', (move) => {
  if (!drag) return;
  const dx = (move.clientX - drag.x) / drag.frame.width;
  const dy = (move.clientY - drag.y) / drag.frame.height;
  const { start } = drag;
  if (drag.kind === 'move') {
    writeBox(drag.box, { ...start, left: start.left + dx, top: start.top + dy });
  } else if (drag.kind === 'size') {
    writeBox(drag.box, { ...start, width: Math.min(start.width + dx, 1 - start.left), height: Math.min(start.height + dy, 1 - start.top) });
  } else if (Math.abs(dx) > 0.01 || Math.abs(dy) > 0.01) {
    const x = (drag.x - drag.frame.left) / drag.frame.width;
    const y = (drag.y - drag.frame.top) / drag.frame.height;
    const [left, right] = [clamp(Math.min(x, x + dx), 0, 1), clamp(Math.max(x, x + dx), 0, 1)];
    const [top, bottom] = [clamp(Math.min(y, y + dy), 0, 1), clamp(Math.max(y, y + dy), 0, 1)];
    writeBox(drag.box, { left, top, width: right - left, height: bottom - top });
  }
});

for (const end of ['pointerup', 'pointercancel']) {
  element.addEventListener(end, () => { drag = null; });
}

element.addEventListener('keydown', (key) => {
  const box = key.target.closest('.hat-crop-box');
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key.key];
  if (!box || !step) return;
  key.preventDefault();
  const now = readBox(box);
  const [dx, dy] = step.map((one) => 0.02 * one);
  writeBox(box, key.shiftKey
    ? { ...now, width: Math.min(now.width + dx, 1 - now.left), height: Math.min(now.height + dy, 1 - now.top) }
    : { ...now, left: now.left + dx, top: now.top + dy });
});

element.addEventListener('click', (click) => {
  const button = click.target.closest('[data-use]');
  if (!button) return;
  const now = button.dataset.use === 'whole'
    ? { left: 0, top: 0, width: 1, height: 1 }
    : readBox(element.querySelector('.hat-crop-box'));
  trigger('submit', { left: now.left, top: now.top, right: Math.min(1, now.left + now.width), bottom: Math.min(1, now.top + now.height) });
});
