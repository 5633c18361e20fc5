"""One self-contained page about a run: `plots` draws, `render` writes HTML, a callback gathers."""
