"""The mesh of a soma and its measures, as published (definitions.md, "Soma mask, published", 5)."""

import trimesh

from somatic.features import Row
from somatic.geometry.mesh import largest_piece, mask_to_mesh
from somatic.measures import measure, soma_columns
from somatic.soma import Place, SomaMask


def soma_surface(soma: SomaMask, place: Place) -> tuple[trimesh.Trimesh, Row]:
    """Mesh a repaired mask and measure the mesh.

    Returns
    -------
    mesh : trimesh.Trimesh
        Closed, of one piece, vertices in nm; without faces where there are too few voxels.
    columns : Row

    Raises
    ------
    DegenerateMesh
        The mesh encloses no volume.
    """
    # Not snapped to the voxels.
    origin_nm = place.centre_nm - place.radius_nm + soma.lower_vx * place.resolution_nm
    mesh, n_components = largest_piece(mask_to_mesh(soma.mask, place.resolution_nm, origin_nm))
    columns: Row = {"n_components": n_components}
    if len(mesh.faces):
        columns |= soma_columns(measure(mesh, "soma mesh"))
    return mesh, columns
