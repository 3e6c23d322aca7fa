// A page that is opened from a folder may start no worker of a file: the script of the search runs in a hidden frame.
if (location.protocol === "file:") {
    window.Worker = class {
        constructor(url) {
            this.frame = document.createElement("iframe");
            this.frame.hidden = true;
            document.body.append(this.frame);
            const inside = this.frame.contentWindow;
            inside.postMessage = (data) => {
                const event = this.message(data);
                queueMicrotask(() => this.onmessage?.(event));
            };
            this.loaded = new Promise((resolve, reject) => {
                const script = inside.document.createElement("script");
                script.onload = resolve;
                script.onerror = reject;
                script.src = new URL(url, document.baseURI);
                inside.document.head.append(script);
            });
        }
        postMessage(data) {
            const event = this.message(data);
            this.loaded.then(() => this.frame.contentWindow.dispatchEvent(event));
        }
        message(data) {
            return new MessageEvent("message", { data: structuredClone(data) }); // each side changes what it has got
        }
        terminate() {
            this.frame.remove();
        }
    };
}
