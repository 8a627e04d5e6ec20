// A grid: the same settings, with one thing changed from cell to cell.

import { html, useEffect, useState } from "/page/vendor/preact.js";
import { get } from "/page/api.js";
import { FramePicture, Link, NotFound, caption, copyText, exactDuration, roughDuration } from "/page/parts.js";
import { Queue } from "/page/queue.js";
import { saveSheet } from "/page/sheet.js";
import { loadBoard, showProblem, state } from "/page/state.js";

function Cell({ job }) {
  if (!job) return html`<td></td>`;
  const [picture] = job.outputs ?? [], words = (job.cell.names ?? []).filter(Boolean).join(", ");
  const seconds = job.notes?.seconds;
  return html`<td>
    ${picture ? html`<${Link} to=${`/p/${picture.id}`}><img class="pixels" src=${picture.url} alt=${words || caption(job)} /></${Link}>`
      : job.frame ? html`<div class="tile forming"><${FramePicture} frame=${job.frame} place=${0} label=${words} /></div>`
        : html`<div class=${`tile ${job.state === "failed" ? "failed" : "blank"}`}>${job.error?.message}</div>`}
    <small>${picture ? (seconds != null ? exactDuration(seconds) : "") : job.state === "queued" ? "waiting" : job.progress?.steps ? `${roughDuration(job.progress.eta)} left` : job.state}</small>
  </td>`;
}

export function Board({ id }) {
  const [loaded, setLoaded] = useState(false), [judged, setJudged] = useState([]);
  useEffect(() => { loadBoard(id).then(() => setLoaded(true)).catch(showProblem); }, [id]);
  const jobs = [...state.jobs.values()].filter((job) => job.board === id && job.cell);
  const size = (axis) => Math.max(0, ...jobs.map((job) => job.cell[axis] ?? 0)) + 1;
  const inOrder = [...jobs].sort((a, b) => (b.state === "cancelled") - (a.state === "cancelled") || a.created - b.created); // the last job of a cell is shown
  const cells = new Map(inOrder.map((job) => [`${job.cell.x ?? 0} ${job.cell.y ?? 0} ${job.cell.z ?? 0}`, job]));
  const at = (x, y, z) => cells.get(`${x} ${y} ${z}`);
  const heading = (axis, i) => {
    const key = ["x", "y", "z"][axis], job = jobs.find((each) => each.cell[key] === i);
    return job?.cell.names?.[axis] ?? "";
  };
  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const models = [...new Set(jobs.map((job) => job.model))];
  useEffect(() => { if (models.length > 1) get("/api/v1/reports").then(({ reports }) => setJudged(reports)).catch(showProblem); }, [models.length > 1]);
  const worth = (axis, i) => { // the first reported number of a model that has a column or a row of its own
    const key = ["x", "y"][axis], own = [...new Set(jobs.filter((job) => job.cell[key] === i).map((job) => job.model))];
    const row = models.length > 1 && own.length === 1 && judged.find((each) => each.model === own[0])?.rows[0];
    return row ? html`<small title=${`n = ${row.n}`}>${row.name} ${row.value}</small>` : null;
  };
  const save = (z) => saveSheet(range(size("y")).map((y) => range(size("x")).map((x) => at(x, y, z)?.outputs?.[0])), range(size("x")).map((x) => heading(0, x)), range(size("y")).map((y) => heading(1, y)), "limner-grid.png").catch(showProblem);
  const done = [...cells.values()].filter((job) => job.state === "done").length;
  if (!jobs.length) return loaded ? html`<${NotFound} what="grid" />` : html`<div class="board"><p class="hint">Loading the grid.</p></div>`;
  return html`<section class="board" aria-label="Grid">
    <header><h1 title=${caption(jobs[0])}>${caption(jobs[0])}</h1>
      <p>${done} of ${cells.size} painted · <button type="button" class="link" onClick=${() => copyText(location.href, "the address is")}>copy the address</button></p></header>
    <${Queue} />
    ${range(size("z")).map((z) => html`<div class="sheet" tabindex="0" role="region" aria-label=${heading(2, z) || "pictures"}>
      ${heading(2, z) && html`<h2>${heading(2, z)}</h2>`}
      <table>
        <thead>${heading(0, 0) && html`<tr>${heading(1, 0) && html`<td></td>`}${range(size("x")).map((x) => html`<th scope="col">${heading(0, x)}${worth(0, x)}</th>`)}</tr>`}</thead>
        <tbody>${range(size("y")).map((y) => html`<tr>${heading(1, 0) && html`<th scope="row">${heading(1, y)}${worth(1, y)}</th>`}
          ${range(size("x")).map((x) => html`<${Cell} key=${`${x}-${y}-${z}`} job=${at(x, y, z)} />`)}</tr>`)}</tbody>
      </table>
      ${done > 0 && html`<button type="button" class="quiet" onClick=${() => save(z)}>As one PNG</button>`}</div>`)}
  </section>`;
}
