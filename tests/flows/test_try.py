
from conftest import *
def test_spots(spots, scene):
    print(spots, [scene.truth[s.nucleus_id].role for s in spots])
def test_und(undisturbed):
    print(undisturbed.table[["status","reason","soma_volume_um","soma_synapse_number"]])
    print(undisturbed.chunks)
