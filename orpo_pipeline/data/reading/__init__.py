"""Files in, rows out: names, compression, formats, and which dialect a file is."""
