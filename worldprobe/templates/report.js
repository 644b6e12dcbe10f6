
"use strict";
(() => {
  // The files of figures and tables lie in their buttons, compressed; one is made when it is asked for.
  if (!("DecompressionStream" in window)) return;
  async function save(button) {
    const bytes = Uint8Array.from(atob(button.dataset.gzip), (c) => c.charCodeAt(0));
    const whole = new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
    const file = new Blob([await whole.arrayBuffer()], { type: button.dataset.kind });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  document.documentElement.classList.add("saves");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-gzip]");
    if (button) save(button);
  });
})();
