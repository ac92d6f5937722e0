"""Content, sections, pages and pictures of a report, and what the terminal shows. Stands on
`baselines`, `cost` and `run`."""
