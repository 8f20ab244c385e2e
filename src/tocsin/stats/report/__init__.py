"""Reports: the numbers of campaigns and sends by any columns, of any days, in rows of one shape."""
