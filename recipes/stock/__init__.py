"""The stock as one run: the table of what is made, its steps, what they cost, and what becomes part of the stock."""
