"""A made-up EM volume: its cells, nuclei, neuropil and synapses, and their layers."""
