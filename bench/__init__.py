"""The measurements behind docs/results.md; each prints a Markdown table. `python -m bench [NAME…]`."""
