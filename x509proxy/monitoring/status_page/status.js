// Brings the page up to date: what the server has drawn anew is put in, node by node, so that what is selected stays so.
(() => {
  "use strict";
  const every = 2000;
  const page = document.documentElement;

  function become(old, fresh) {
    if (old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
    } else if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else {
      for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      const [olds, news] = [[...old.childNodes], [...fresh.childNodes]];
      news.forEach((node, place) => place < olds.length ? become(olds[place], node) : old.append(document.importNode(node, true)));
      olds.slice(news.length).forEach((node) => node.remove());
    }
  }

  function ask() {
    if (document.hidden) return;
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname);
    request.responseType = "document";
    request.timeout = 5000;
    request.onloadend = () => {
      const fresh = request.status === 200 && request.response && request.response.querySelector("main");
      page.classList.toggle("stale", !fresh);
      if (fresh) become(document.querySelector("main"), fresh);
      waiting = setTimeout(ask, every);
    };
    request.send();
  }

  let waiting = setTimeout(ask, every);
  document.addEventListener("visibilitychange", () => { clearTimeout(waiting); ask(); });
})();
