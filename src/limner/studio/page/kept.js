// What this browser keeps from visit to visit.

/** What was kept under a name; null where there is nothing. */
export function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keep something for the next visit, where the browser lets pages do that. */
export function remember(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch { /* full or forbidden; this visit goes on without */ }
}

const OWN = "limner-jobs", OWN_MOST = 300;

/** The ids of jobs that were asked for in this browser; others' are theirs to cancel. */
export function owned() {
  try {
    const ids = JSON.parse(recall(OWN) ?? "[]");
    return Array.isArray(ids) ? ids : [];
  } catch {
    return [];
  }
}

export function own(id) {
  remember(OWN, JSON.stringify([...owned(), id].slice(-OWN_MOST)));
}
