// Evaluations of models: the reports of `limner evaluate`, and the pages of `limner compare`.

import { html, useEffect, useState } from "/page/vendor/preact.js";
import { get, untilReachable } from "/page/api.js";
import { Icon, Link, NotFound } from "/page/parts.js";
import { showProblem } from "/page/state.js";

/** The numbers of a report, each with what it was measured on. */
export function ReportNumbers({ report }) {
  return html`<dl>${report.rows.map((row) => html`<div key=${row.name}><dt>${row.name}</dt>
    <dd>${row.value}<small>n = ${row.n.toLocaleString("en")}${row.extractor && `, ${row.extractor}`}</small></dd></div>`)}</dl>`;
}

function Report({ report }) {
  return html`<section class="sheet-of" aria-label=${`${report.model} against ${report.against}`}>
    <header><h3>${report.model}</h3><p class="hint">against ${report.against}, ${report.date}</p></header>
    <${ReportNumbers} report=${report} />
    ${report.text && html`<details class="more"><summary>The whole report</summary><pre tabindex="0">${report.text}</pre></details>`}
  </section>`;
}

function ComparisonLink({ comparison }) {
  const { id, against, date, n, subjects, folder } = comparison;
  return html`<${Link} to=${`/reports/${id}`} class="sheet-of">
    <h3>${subjects.join(", ")}</h3>
    <p class="hint">against ${against}, ${n.toLocaleString("en")} pictures of each<br />${folder}, ${date}</p>
  </${Link}>`;
}

/** A comparison's own page, in a sandbox. */
function ComparisonPage({ id }) {
  const [known, know] = useState(null);
  useEffect(() => { untilReachable(() => get("/api/v1/reports"), showProblem).then(({ comparisons }) => know(comparisons.some((each) => each.id === id))).catch(showProblem); }, [id]);
  if (!known) return known === false ? html`<${NotFound} what="comparison" />` : html`<div class="reports"></div>`;
  return html`<section class="inside" aria-label="Comparison">
    <header><${Link} to="/reports" class="quiet"><${Icon} name="left" /> All reports</${Link}>
      <a class="quiet" href=${`/api/v1/comparisons/${id}`} target="_blank" rel="noopener">Open in a new tab</a></header>
    <h1 class="hidden">A comparison</h1>
    <iframe src=${`/api/v1/comparisons/${id}`} sandbox="allow-scripts" title="The comparison"></iframe>
  </section>`;
}

function ReportList() {
  const [results, setResults] = useState(null);
  useEffect(() => { untilReachable(() => get("/api/v1/reports"), showProblem).then(setResults).catch((error) => { setResults({ reports: [], comparisons: [] }); showProblem(error); }); }, []);
  if (!results) return html`<div class="reports"></div>`;
  const { reports, comparisons } = results;
  return html`<section class="reports" aria-label="Reports">
    <h1>Reports</h1>
    ${!reports.length && !comparisons.length && html`<div class="none">
      <p>No model below this folder has been evaluated yet. On the command line,</p>
      <pre tabindex="0">limner evaluate runs/NAME${"\n"}limner compare runs/ONE runs/OTHER</pre>
      <p>measure how good the pictures of one model are, or put several models side by side. The results appear here.</p></div>`}
    ${comparisons.length > 0 && html`<div><h2>Side by side</h2><div class="sheets">${comparisons.map((each) => html`<${ComparisonLink} key=${each.id} comparison=${each} />`)}</div></div>`}
    ${reports.length > 0 && html`<div><h2>One by one</h2><div class="sheets">${reports.map((each) => html`<${Report} key=${`${each.model} ${each.against}`} report=${each} />`)}</div></div>`}
  </section>`;
}

export const Reports = ({ id }) => (id ? html`<${ComparisonPage} id=${id} />` : html`<${ReportList} />`);
