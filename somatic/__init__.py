"""The features of one cell, and their input and output; knows nothing of Prefect."""
