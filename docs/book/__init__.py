"""The book: notebooks, formulas and the interface of diy.py as pages to be read without installing anything."""
