"""The report: tables with their captions, figures, and the page that holds both."""
