"""One self-contained page about a run: `assemble` gathers, `plots` draws, `render` writes HTML."""
