// Keeps parts of a page up to date without a reload. Every page also works without this file.
// The server escapes every value of the fragments that it sends.
"use strict";

const INTERVAL_MS = 2000;
const part = document.querySelector("[data-live]");
const status = document.getElementById("live");

let etag = "";
let isSignedOut = false;

function say(text) {
  if (status) {
    status.hidden = false;
    status.textContent = text;
  }
}

function show(html) {
  const known = new Set(Array.from(part.children, (row) => row.dataset.id));
  const focused = document.activeElement?.closest("[data-id]")?.dataset.id;
  part.innerHTML = html;
  let added = 0;
  for (const row of part.children) {
    if (row.dataset.id && !known.has(row.dataset.id)) {
      row.classList.add("is-new");
      added += 1;
    }
  }
  if (focused) {
    part.querySelector(`[data-id="${CSS.escape(focused)}"] a`)?.focus();
  }
  if (added > 0) {
    say(added === 1 ? "1 new payment" : `${added} new payments`);
  }
}

async function refresh() {
  const headers = etag ? { "If-None-Match": etag } : {};
  const answer = await fetch(part.dataset.live, { headers, cache: "no-store" });
  if (answer.status === 401) {
    isSignedOut = true;
    say("Your session has ended. Reload the page to sign in.");
  } else if (answer.status === 200) {
    const isFirst = etag === "";
    etag = answer.headers.get("ETag") ?? "";
    show(await answer.text());
    if (isFirst) {
      say("Live");
    }
  } else if (answer.status !== 304) {
    say("The list is not live at the moment.");
  }
}

async function watch() {
  while (!isSignedOut) {
    if (!document.hidden) {
      try {
        await refresh();
      } catch {
        say("The server does not answer. Trying again.");
      }
    }
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
  }
}

if (part) {
  watch();
}

// A slow answer must not lead to a second click, which would send the form twice.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.isSent) {
    event.preventDefault();
  }
  event.target.dataset.isSent = "true";
});
// The browser may show an old copy of the page after "back".
window.addEventListener("pageshow", () => {
  for (const form of document.forms) {
    delete form.dataset.isSent;
  }
});
