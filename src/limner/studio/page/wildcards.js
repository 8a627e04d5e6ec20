// Lists of words for `__name__` in prompts, kept in files that the command line reads, too.

import { html, useEffect, useState } from "/page/vendor/preact.js";
import { ask, get } from "/page/api.js";
import { forgetLists } from "/page/complete.js";
import { onEnter } from "/page/parts.js";
import { newPromptSettings, showNotice, showProblem, state, updateForm } from "/page/state.js";

const NAME = /^[a-z0-9]+(-[a-z0-9]+)*$/;

export function Wildcards() {
  const [lists, setLists] = useState([]), [own, edit] = useState({ name: "", words: "" }), [chosen, choose] = useState("");
  const known = ({ lists: fresh }) => { setLists(fresh); forgetLists(); };
  useEffect(() => { get("/api/v1/wildcards").then(known).catch(showProblem); }, []);
  const pick = (name) => {
    const list = lists.find((each) => each.name === name);
    choose(name);
    edit({ name, words: list ? list.words.join("\n") : "" });
  };
  const words = own.words.split("\n").map((line) => line.trim()).filter((line) => line && !line.startsWith("#")), list = lists.find((each) => each.name === chosen);
  const name = own.name.trim().toLowerCase(), good = NAME.test(name) && name.length <= 40 && words.length > 0;
  const keep = async () => {
    try {
      known(await ask("PUT", `/api/v1/wildcards/${name}`, { words }));
      choose(name);
      showNotice(`__${name}__ stands for ${words.length} choice${words.length > 1 ? "s" : ""}`);
    } catch (error) {
      showProblem(error);
    }
  };
  const remove = () => ask("DELETE", `/api/v1/wildcards/${chosen}`).then((answer) => {
    known(answer);
    const left = answer.lists.find((each) => each.name === chosen); // the list of limner's that it replaced
    choose(left ? chosen : "");
    edit(left ? { name: chosen, words: left.words.join("\n") } : { name: "", words: "" });
    showNotice("the list is deleted");
  }).catch(showProblem);
  const insert = () => updateForm({ prompt: `${state.form.prompt.trimEnd()} __${chosen}__`.trim(), ...newPromptSettings() });
  return html`<div class="fields">
    <div class="field"><label for="wildcard">List</label>
      <select id="wildcard" value=${chosen} onChange=${(e) => pick(e.target.value)}><option value="">a new one</option>${lists.map((each) => html`<option key=${each.name} value=${each.name}>${each.name}${each.own ? " (your own)" : ""}</option>`)}</select></div>
    <div class="field"><label for="wildcard-name">Name</label>
      <input id="wildcard-name" type="text" value=${own.name} maxlength="40" placeholder="weather" spellcheck="false" aria-describedby="wildcard-help" onKeyDown=${onEnter(() => good && keep())} onInput=${(e) => edit({ ...own, name: e.target.value })} />
      <small id="wildcard-help">In a prompt, <code>__${name || "name"}__</code> stands for one of its choices, which the seed chooses.</small></div>
    <div class="field"><label for="wildcard-words">One choice per line</label>
      <textarea id="wildcard-words" class="lines" rows="5" value=${own.words} placeholder=${"sunny\na storm at sea"} onInput=${(e) => edit({ ...own, words: e.target.value })}></textarea></div>
    <div class="views"><button type="button" class="quiet" disabled=${!good} onClick=${keep}>Keep this list</button>
      ${chosen && html`<button type="button" class="quiet" onClick=${insert}>Put it into the prompt</button>`}
      ${list?.own && html`<button type="button" class="quiet danger" onClick=${remove}>Delete this list</button>`}</div>
  </div>`;
}
