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
      const send = inside.postMessage.bind(inside);
      // In a worker, `postMessage` has one argument and sends to the page that created it.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      script.src = url;
      const loaded = new Promise((done) => script.addEventListener("load", done));
      inside.document.head.append(script);
      this.postMessage = (data) => loaded.then(() => send(data, "*"));
    }
  };
}
