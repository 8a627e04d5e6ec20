// The page: its views, its keys, and what can be dropped on it.

import { html, render, useEffect, useErrorBoundary, useLayoutEffect, useRef, useState } from "/page/vendor/preact.js";
import { connection, findStudio } from "/page/api.js";
import { Composer } from "/page/composer.js";
import { Alert, Icon, Link, NotFound, caption, lazy, loadAhead, useTheme } from "/page/parts.js";
import { Reports } from "/page/reports.js";
import { Stage, neighbours, status } from "/page/stage.js";
import { cancelAll, dropTarget, follower, forgetForm, go, isOpen, loadHistory, loadJobs, loadModels, ownOpenJobs, paint, place, read, set, showNotice, showProblem, showsMaps, state, subscribe, takeFile } from "/page/state.js";

function Header() {
  const [dark, turn] = useTheme();
  const open = [...state.jobs.values()].filter((job) => isOpen(job) && !showsMaps(job));
  return html`<header class="top">
    <${Link} to="/" class="brand"><img src="/page/icon.svg" alt="" width="26" height="26" /> limner</${Link}>
    <span class="queue" role="status">${open.length > 1 ? `${open.length} jobs` : ""}</span>
    ${ownOpenJobs().length > 1 && html`<button type="button" class="quiet" onClick=${cancelAll}>Cancel all</button>`}
    <${Link} to="/train" class="quiet">Train</${Link}>
    <${Link} to="/reports" class="quiet">Reports</${Link}>
    <button type="button" class="bare" aria-label=${dark ? "Light" : "Dark"} title=${dark ? "light" : "dark"} onClick=${turn}><${Icon} name=${dark ? "sun" : "moon"} /></button>
  </header>`;
}

/** Tell screen readers what happens. */
function LiveRegion() {
  const [job] = [...state.jobs.values()].reverse().filter((each) => !showsMaps(each));
  const message = !job ? "" : job.state === "running" ? `painting ${caption(job)}` : `${caption(job)}: ${status(job)}`;
  return html`<p class="hidden" aria-live="polite">${message}</p>`;
}

/** Return to the studio, at the place where it was left. */
function close() {
  set({ problem: null });
  go("/");
  requestAnimationFrame(() => scrollTo(0, place.home));
}

function typing(event) {
  return event.target.matches?.("input, textarea, select");
}

/** Let a field take what was typed into it, as it does when it is left. */
function commitField(field) {
  field.blur();
  field.focus({ preventScroll: true });
}

function keys(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (event.repeat || state.question) return; // the keys are held down, or a question is open
    if (typing(event)) commitField(event.target);
    const form = document.querySelector(["edit", "train"].includes(state.route.name) ? "main form" : "form.composer");
    if (form) setTimeout(() => form.requestSubmit()); // once the view has what was typed, which is checked first
    else paint();
  } else if (event.key === "z" && (event.ctrlKey || event.metaKey) && state.undo && !typing(event)) {
    event.preventDefault();
    state.undo();
  } else if (event.key === "Escape") {
    if (state.question) document.querySelector(".asked button:last-child").click();
    else if (typing(event)) event.target.blur();
    else if (state.route.name !== "home") close();
    else cancelAll();
  } else if (state.route.name === "picture" && !typing(event) && !event.altKey && !event.ctrlKey && !event.metaKey) {
    const [newer, older] = neighbours(state.route.id);
    const next = { ArrowLeft: newer, ArrowRight: older }[event.key];
    if (next) {
      event.preventDefault();
      go(`/p/${next.id}`);
    }
  }
}

/** Take what was dropped or pasted: the current view may use it; otherwise it is a picture for the form. */
function receive({ files: [file], items }) {
  if (dropTarget.take) return dropTarget.take(items);
  if (!file || state.route.name === "train") return;
  if (state.route.name !== "home") go("/");
  takeFile(file);
}

function drop(event) {
  if (typing(event) && !event.dataTransfer?.types.includes("Files")) return; // text, which the field takes
  event.preventDefault();
  if (event.dataTransfer) receive(event.dataTransfer);
}

function over(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  if (dropTarget.take || state.route.name !== "train") document.body.classList.add("dropping");
}

const Home = () => html`<h1 class="hidden">The studio</h1><${Composer} /><${Stage} />`;
const Missing = () => html`<${NotFound} what="page" hint="Check the address." />`;
const VIEWS = { home: Home, picture: lazy("viewer", "Viewer", false), edit: lazy("edit", "Edit"), grid: lazy("board", "Board", false), reports: Reports, train: lazy("train", "Train"), missing: Missing };

/** The view of the current address; if it fails, the reason and a way out. */
function View() {
  const { name, id } = state.route;
  const [error, again] = useErrorBoundary(showProblem);
  const beginAgain = () => { forgetForm(); go("/"); again(); };
  if (!error) return html`${name !== "home" && html`<${Alert} />`}<${VIEWS[name]} key=${id} id=${id} />`;
  const problem = { message: `this view cannot be shown: ${error.message ?? error}`, hint: "all painted pictures are kept" };
  return html`<div><${Alert} problem=${problem} /><button type="button" class="second" onClick=${beginAgain}>Start with an empty form</button></div>`;
}

/** Ask before an action that cannot be undone. */
function ConfirmDialog() {
  const question = state.question, no = useRef(null);
  useLayoutEffect(() => no.current?.focus(), [question]); // once, not at every rendering
  if (!question) return null;
  const away = () => { set({ question: null }); question.from?.isConnected && question.from.focus({ preventScroll: true }); };
  return html`<div class="notice asked" role="alertdialog" aria-label=${question.text}><span>${question.text}</span>
    <button type="button" onClick=${() => { away(); Promise.resolve(question.act()).catch(showProblem); }}>${question.yes}</button>
    <button type="button" ref=${no} onClick=${away}>Keep</button></div>`;
}

const TITLE = document.title;
let visited = null; // the address whose heading had the focus

/** Use the view's heading as the window's title, and focus it after a change of views, so that screen readers notice the change. */
function announce() {
  const heading = document.querySelector("main h1"), here = document.querySelector("main").dataset.view;
  if (!heading?.textContent.trim()) return;
  document.title = state.route.name === "home" ? TITLE : `${heading.textContent.trim()} · ${TITLE}`;
  if (visited === here) return;
  if (visited !== null && !document.querySelector(".asked")) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
  visited = here;
}

function App() {
  useEffect(() => {
    const watching = new MutationObserver(announce);
    watching.observe(document.querySelector("main"), { childList: true, characterData: true, subtree: true });
    announce();
    return () => watching.disconnect();
  }, []);
  const [, again] = useState(0);
  useLayoutEffect(() => subscribe(() => again((n) => n + 1)), []); // immediately, so that no change is missed
  return html`<${Header} />
    <main class=${state.route.name} data-view=${location.pathname}><${View} key=${location.pathname} /></main>
    <${ConfirmDialog} />
    ${state.lost && html`<p class="notice lost" role="status">The connection to the studio is lost; trying to reconnect. Jobs continue without this page.</p>`}
    ${state.notice && !state.lost && html`<p class="notice" role="status">${state.notice} ${state.undo && html`<button type="button" onClick=${state.undo}>Undo</button>`}</p>`}
    <${LiveRegion} />`;
}

set({ route: read() });
render(html`<${App} />`, document.querySelector("#app"));
addEventListener("popstate", () => set({ route: read(), problem: null }));
addEventListener("keydown", keys);
addEventListener("dragover", over);
addEventListener("dragleave", (event) => !event.relatedTarget && document.body.classList.remove("dropping"));
addEventListener("drop", drop);
addEventListener("drop", () => document.body.classList.remove("dropping"), true); // also where another handler stops the event before it comes here
addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file?.type.startsWith("image/")) receive(event.clipboardData);
});
addEventListener("error", (event) => event.error && showProblem(event.error));
addEventListener("unhandledrejection", (event) => { event.preventDefault(); showProblem(event.reason); });
addEventListener("offline", findStudio);
const IDLE = 500; // milliseconds in which the current view can load what it needs
const load = () => Promise.all([loadModels(), loadJobs(), loadHistory()]).catch(showProblem);
document.addEventListener("visibilitychange", async () => {
  follower.fill();
  if (!document.hidden && !(await findStudio())) load(); // what other windows have done, or what happened during a phone's sleep
});
connection.changed = (lost) => {
  set(lost ? { lost } : { lost, problem: null });
  if (lost) return;
  showNotice("the studio answers again");
  follower.fill();
  load();
};
load().then(() => setTimeout(loadAhead, IDLE));
