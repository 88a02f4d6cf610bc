// Checks for every page of the operators' port: enough contrast, a layout that fits the window, and names for screen readers. Each
// check calls `found` with the text of each finding.

// The least contrast of text to its background (WCAG 2.2, 1.4.3).
const CONTRAST_MIN = 4.5;

// The relative luminance of a colour (WCAG 2.2).
function luminance(colour) {
  const [red, green, blue] = colour.map(part => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
function parts(colour) {
  const numbers = colour.match(/[\d.]+/g).map(Number);
  return { rgb: numbers.slice(0, 3), alpha: numbers.length > 3 ? numbers[3] : 1 };
}
const mix = (front, alpha, back) => front.map((part, index) => part * alpha + back[index] * (1 - alpha));
// The colour behind the text of an element: the backgrounds of the element and of its ancestors, blended over a white page.
function background(element) {
  const behind = element.parentElement ? background(element.parentElement) : [255, 255, 255];
  const { rgb, alpha } = parts(getComputedStyle(element).backgroundColor);
  return mix(rgb, alpha, behind);
}
function contrast(element) {
  let opacity = 1;
  for (let one = element; one; one = one.parentElement) opacity *= Number(getComputedStyle(one).opacity);
  const back = background(element), { rgb, alpha } = parts(getComputedStyle(element).color);
  const [light, dark] = [luminance(back), luminance(mix(rgb, alpha * opacity, back))].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}
const name = element => `${element.tagName.toLowerCase()}#${element.id}.${element.className} "${element.textContent.trim().slice(0, 40)}"`;
const isShown = element => element.getClientRects().length > 0;

// Returns the lowest contrast. At least `textsMin` texts must be shown, so that the check does not pass on an empty page.
function checkContrast(found, textsMin) {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let lowest = Infinity, count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !isShown(element) || element.closest("script, svg")) continue;
    const value = contrast(element);
    count += 1;
    lowest = Math.min(lowest, value);
    if (value < CONTRAST_MIN) found(`contrast ${value.toFixed(2)}: ${name(element)}`);
  }
  if (count < textsMin) found(`only ${count} texts were checked`);
  return lowest;
}
function checkLayout(found) {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found(`the page is ${document.documentElement.scrollWidth} px wide, the window ${width} px`);
  for (const element of document.body.querySelectorAll("*")) {
    if (!isShown(element) || element.closest("svg")) continue;
    const { left, right } = element.getBoundingClientRect();
    if (left < -0.5 || right > width + 0.5) found(`beyond the window (${left} to ${right}): ${name(element)}`);
    if (element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1) found(`cut: ${name(element)}`);
  }
}
function checkAccessibility(found) {
  for (const head of document.querySelectorAll("th")) if (!head.getAttribute("scope")) found(`without a scope: ${name(head)}`);
  for (const table of document.querySelectorAll("table")) if (table.rows.length > 0 && !table.caption?.textContent) found(`without a caption: ${name(table)}`);
  for (const picture of document.querySelectorAll("svg, meter")) if (!picture.getAttribute("aria-label")) found(`without a label: ${picture.id}`);
}
