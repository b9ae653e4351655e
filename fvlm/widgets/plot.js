// A Plotly figure that takes the place of the one before; the Python side is plot.py.

const ROW = 20, ENTRY = 330;  // pixels: a line of the legend, and the least width of an entry

// Plotly as a script, which the kernel sends once a page.
function library(model) {
  window.fvlmPlotly ??= window.Plotly ? Promise.resolve(window.Plotly) : new Promise(done => {
    const hear = (message, buffers) => {
      if (!message.library) return;
      model.off("msg:custom", hear);
      const script = document.createElement("script");
      script.src = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      script.onload = () => done(window.Plotly);
      document.head.appendChild(script);
    };
    model.on("msg:custom", hear);
    model.send({ ask: "library" });
  });
  return window.fvlmPlotly;
}

// The layout with the legend below, in as many columns as there is room for, and the height that its lines take.
function withLegend(layout, width) {
  const { entries, height, bottom } = layout.meta || {};
  if (!entries) return layout;
  const columns = Math.max(1, Math.floor((width - 80) / ENTRY)), lines = Math.ceil(entries / columns) * ROW;
  const legend = { ...layout.legend, entrywidth: ENTRY - 45, maxheight: lines + 60 };
  return { ...layout, legend, height: height + lines, margin: { ...layout.margin, b: bottom + lines } };
}

export default {
  render({ model, el }) {
    const plot = document.createElement("div");
    plot.style.width = "100%";
    el.style.width = "100%";
    el.appendChild(plot);
    let Plotly = null, figure = null, listening = false, width = 0;

    const draw = async () => {
      if (!Plotly || !figure || !el.isConnected || !el.clientWidth) return;
      width = el.clientWidth;
      await Plotly.react(plot, figure.data, { ...withLegend(figure.layout, width), width }, { displaylogo: false });
      if (listening) return;
      listening = true;
      for (const kind of ["click", "hover"]) {
        plot.on(`plotly_${kind}`, ({ points: [point] }) => {
          if (point) model.send({ point: kind, trace: point.curveNumber, index: point.pointNumber ?? 0 });
        });
      }
    };
    const hear = message => {
      if (message.figure) { figure = JSON.parse(message.figure); draw(); }
    };
    model.on("msg:custom", hear);
    library(model).then(loaded => { Plotly = loaded; draw(); });
    model.send({ ask: "figure" });
    const watcher = new ResizeObserver(() => { if (el.clientWidth !== width) draw(); });
    watcher.observe(el);
    return () => {
      watcher.disconnect();
      model.off("msg:custom", hear);
      if (Plotly) Plotly.purge(plot);
    };
  },
};
