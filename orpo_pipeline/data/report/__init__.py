"""The data report: figures of a prepared data set, as a page and as JSON."""
