// Elements in one expression, and what the page says to those who do not see it.

/** An element with properties, listeners (`onclick`), attributes (with a dash, or `role`) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes('-') || name === 'role' || name === 'for' || name === 'colspan') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Reads `text` out, also if it is what was read out last. */
export function announce(text) {
  const region = document.getElementById('announcements');
  region.replaceChildren(element('p', {}, text));
}
