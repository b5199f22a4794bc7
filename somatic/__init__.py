"""The features of one cell, and their input and output; knows nothing of Prefect."""

from somatic.home import settle_home

# Before any of the modules below imports a library that looks for the home folder.
settle_home()
