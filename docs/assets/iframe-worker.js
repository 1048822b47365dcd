// Search runs in a Worker, and browsers forbid workers of pages opened from the file system. There,
// run the worker's script in a hidden frame instead. Other pages keep the browser's Worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "Search";
      document.body.append(frame);
      const inside = frame.contentWindow;
      // In a worker, `postMessage` has one argument and sends to the page that made it.
      const toWorker = inside.postMessage.bind(inside);
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.#load(inside, each)));
      const loaded = this.#load(inside, url);
      this.postMessage = (data) => loaded.then(() => toWorker(data, "*"));
      this.terminate = () => frame.remove();
    }

    #load(inside, url) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        inside.document.head.append(script);
      });
    }

    set onmessage(listener) {
      this.addEventListener("message", listener);
    }
  };
}
