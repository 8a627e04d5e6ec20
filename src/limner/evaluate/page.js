for (const button of document.querySelectorAll(".board button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const at = Number(head.dataset.at), first = head.dataset.first;
    const order = head.ariaSort ? (head.ariaSort === "ascending" ? "descending" : "ascending") : first;
    const sign = order === "ascending" ? 1 : -1;
    const value = row => row.cells[at].dataset.value;
    const compared = (a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    };
    for (const other of table.querySelectorAll("th")) other.ariaSort = null;
    head.ariaSort = order;
    body.append(...[...body.rows].sort(compared));
  });
}
