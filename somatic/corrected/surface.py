"""The surface of a mask without its steps, on the grid of its volume (docs/definitions.md, "Surface").

Marching cubes over voxels give a staircase, whose area is up to a tenth too large whatever the resolution. Here they
run over the mask after a blur that takes the steps out and leaves curved surfaces where they are: its kernel has no
second moment, so that a sphere does not shrink as under a Gaussian.
"""

from functools import reduce

import numpy as np

from somatic.geometry.bitmask import BITS, BitMask
from somatic.geometry.compiled import compiled
from somatic.geometry.marching_cubes import add_cube, triangles_of_cubes, with_room

# Its sum is 1, its second moment 0, and what alternates from voxel to voxel is gone after it.
_ONCE = np.array([-1, 4, 10, 4, -1]) / 16
_PASSES = 3
"""How often it is applied along the axis with the largest voxels, along others more often.

Fewer leave steps, more take off what is small: with three the area is within 1 % from spheres of 1 um to planes, on
average over their directions.
"""
_ROUNDING = 1e-6
_ONE = np.uint64(1)


def smooth_surface(
    mask: BitMask, resolution_nm: np.ndarray, factors: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles around a mask, closed.

    Parameters
    ----------
    mask : BitMask
        Where it touches a face of its box, the surface ends there in a flat cap.
    resolution_nm : (3,) float
        Size of a voxel.
    factors : (3,) int64, optional
        How many voxels are merged along each axis before the blur, so that it reaches about equally far along all of
        them. By default `merged_voxels`.

    Returns
    -------
    vertices_nm : (n, 3) float64
        From the lower corner of the box, which is a corner of its first voxel and not its middle.
    faces : (m, 3) int32
        They point outwards.
    """
    if factors is None:
        factors = merged_voxels(resolution_nm)
    merged_nm = factors * resolution_nm
    passes = np.floor(_PASSES * merged_nm.max() / merged_nm + _ROUNDING).astype(int).tolist()
    along_x, along_y, along_z = (reduce(np.convolve, [_ONCE] * n).astype(np.float32) for n in passes)
    vertices, faces = _march(mask.words, mask.n_x, factors, along_x, along_y, along_z, *triangles_of_cubes())
    # Cubes begin one voxel outside, and a voxel's middle is half a voxel from its corner.
    return (vertices.astype(np.float64) - 0.5) * merged_nm, faces


def merged_voxels(resolution_nm: np.ndarray) -> np.ndarray:
    """How many voxels along each axis, (3,) int64, fit in the longest side of one."""
    return np.floor(resolution_nm.max() / resolution_nm + _ROUNDING).astype(np.int64)


@compiled
def _march(words, n_x, factors, along_x, along_y, along_z, triangles, n_triangles):
    """Marching cubes where the blurred mask is a half; vertices in merged voxels, (0, 0, 0) is one before the first."""
    n_x_merged, n_y, n_z = -(-n_x // factors[0]), -(-words.shape[1] // factors[1]), -(-words.shape[2] // factors[2])
    half = len(along_y) // 2
    # Layers blurred along x and z, and two layers of the field with one voxel more on every side. Of each row only a
    # span along z may be other than 0, and in the field other than outside.
    ring, ring_spans = np.zeros((len(along_y), n_x_merged, n_z), np.float32), _no_spans(len(along_y), n_x_merged)
    field, spans = np.full((2, n_x_merged + 2, n_z + 2), np.float32(-0.5)), _no_spans(2, n_x_merged + 2)
    # Most rows are empty: only what was written is cleared again.
    share, blurred_z = np.zeros((n_x_merged, n_z), np.float32), np.zeros((n_x_merged, n_z), np.float32)
    numbered = np.empty((3, 2, n_x_merged + 2, n_z + 2), np.int32)
    vertices, n_vertices = np.empty((1024, 3), np.float32), 0
    faces, n_faces = np.empty((2048, 3), np.int32), 0
    n_blurred = 0
    for layer in range(n_y + 2):
        y = min(max(layer - 1, 0), n_y - 1)
        while n_blurred < min(y + half + 1, n_y):
            slot = n_blurred % len(along_y)
            _add_voxels(words, n_x, factors, n_blurred, share)
            _blur_layer(share, along_x, along_z, blurred_z, ring[slot], ring_spans[slot])
            n_blurred += 1
        upper, lower = field[layer % 2], field[(layer + 1) % 2]
        of_upper, of_lower = spans[layer % 2], spans[(layer + 1) % 2]
        _blur_along_y(ring, ring_spans, along_y, y, n_y, upper, of_upper)
        _put_outside(upper)
        if y != layer - 1:
            upper[:] = -np.abs(upper)
        if layer == 0:
            continue
        for x in range(n_x_merged + 1):
            start = min(of_lower[x, 0], of_lower[x + 1, 0], of_upper[x, 0], of_upper[x + 1, 0])
            stop = max(of_lower[x, 1], of_lower[x + 1, 1], of_upper[x, 1], of_upper[x + 1, 1])
            if start >= stop:
                continue
            signs = _signs(lower, upper, x, start - 1)
            for z in range(start - 1, min(stop, n_z + 1)):
                following = _signs(lower, upper, x, z + 1)
                cube, signs = signs | following << 4, following
                if cube == 0 or cube == 255:
                    continue
                vertices, faces = with_room(vertices, n_vertices, faces, n_faces)
                n_before = n_vertices
                n_vertices, n_faces = add_cube(
                    cube,
                    (x, layer - 1, z),
                    (triangles, n_triangles),
                    numbered,
                    (vertices, n_vertices),
                    (faces, n_faces),
                )
                for vertex in range(n_before, n_vertices):
                    _put_between(vertices[vertex], lower, upper, layer - 1)
    return vertices[:n_vertices].copy(), faces[:n_faces].copy()


@compiled
def _no_spans(n_layers, n_rows):
    spans = np.zeros((n_layers, n_rows, 2), np.int64)
    spans[..., 0] = 2**31
    return spans


@compiled
def _blur_layer(share, kernel_x, kernel_z, blurred_z, blurred, spans):
    """Blur a layer along z and x; beyond its ends it goes on as it ends. `share` and `blurred_z` are empty after it."""
    n_x, n_z = blurred.shape
    half = len(kernel_z) // 2
    row = np.empty(n_z + 2 * half, np.float32)
    starts, stops = np.full(n_x, 2**31), np.zeros(n_x, np.int64)
    for x in range(n_x):
        first, last = 0, n_z
        while first < last and share[x, first] == 0:
            first += 1
        while first < last and share[x, last - 1] == 0:
            last -= 1
        if first == last:
            continue
        starts[x], stops[x] = max(first - half, 0), min(last + half, n_z)
        row[:half], row[half : half + n_z], row[half + n_z :] = share[x, 0], share[x], share[x, -1]
        share[x, first:last] = 0
        for k in range(len(kernel_z)):
            _add(blurred_z[x, starts[x] : stops[x]], row[starts[x] + k : stops[x] + k], kernel_z[k])
    half = len(kernel_x) // 2
    for x in range(n_x):
        blurred[x, spans[x, 0] : spans[x, 1]] = 0
        spans[x, 0], spans[x, 1] = 2**31, 0
        for k in range(len(kernel_x)):
            of = min(max(x + k - half, 0), n_x - 1)
            _add(blurred[x, starts[of] : stops[of]], blurred_z[of, starts[of] : stops[of]], kernel_x[k])
            spans[x, 0], spans[x, 1] = min(spans[x, 0], starts[of]), max(spans[x, 1], stops[of])
    for x in range(n_x):
        blurred_z[x, starts[x] : stops[x]] = 0


@compiled
def _add(row, other, weight):
    for i in range(len(row)):
        row[i] += weight * other[i]


@compiled
def _add_voxels(words, n_x, factors, layer, share):
    """Which share of each merged voxel of a layer is set."""
    n_words, n_y, n_z = words.shape
    first, last = layer * factors[1], min((layer + 1) * factors[1], n_y)
    for y in range(first, last):
        for w in range(n_words):
            line = words[w, y]
            if line.max() == 0:
                continue
            for bit in range(min(BITS, n_x - w * BITS)):
                row = share[(w * BITS + bit) // factors[0]]
                shift = np.uint64(bit)
                if factors[2] == 1:
                    for z in range(n_z):
                        row[z] += np.float32(line[z] >> shift & _ONE)
                else:
                    for z in range(n_z):
                        row[z // factors[2]] += np.float32(line[z] >> shift & _ONE)
    if factors.max() == 1:
        return
    for x in range(len(share)):
        of_x = min(factors[0], n_x - x * factors[0])
        for z in range(share.shape[1]):
            share[x, z] /= of_x * (last - first) * min(factors[2], n_z - z * factors[2])


@compiled
def _blur_along_y(ring, ring_spans, kernel, y, n_y, field, spans):
    """Write a layer of the field, less a half, inside its margin."""
    n_x, n_z = ring.shape[1:]
    half = len(kernel) // 2
    for x in range(n_x):
        row = field[x + 1, 1 : n_z + 1]
        row[spans[x + 1, 0] - 1 : spans[x + 1, 1] - 1] = -0.5
        start, stop = 2**31, 0
        for k in range(len(kernel)):
            slot = min(max(y + k - half, 0), n_y - 1) % len(kernel)
            of, first, last = ring[slot, x], ring_spans[slot, x, 0], ring_spans[slot, x, 1]
            _add(row[first:last], of[first:last], kernel[k])
            start, stop = min(start, first), max(stop, last)
        # In the field's own count, which begins with the margin.
        spans[x + 1, 0], spans[x + 1, 1] = start + 1, stop + 1


@compiled
def _put_outside(field):
    """Have the surface pass half way between the outermost voxels and the margin, wherever these are inside."""
    for inner, outer in ((1, 0), (-2, -1)):
        field[outer] = -np.abs(field[inner])
    for inner, outer in ((1, 0), (-2, -1)):
        field[:, outer] = -np.abs(field[:, inner])


@compiled
def _signs(lower, upper, x, z):
    """Which of four neighbours are inside, as bits x + 2 y."""
    signs = np.int64(lower[x, z] > 0) | np.int64(lower[x + 1, z] > 0) << 1
    return signs | np.int64(upper[x, z] > 0) << 2 | np.int64(upper[x + 1, z] > 0) << 3


@compiled
def _put_between(vertex, lower, upper, y):
    """Move a vertex from the middle of its edge to where the field is 0."""
    x, on_y, z = np.int64(vertex[0]), np.int64(vertex[1]), np.int64(vertex[2])
    begin = (lower if on_y == y else upper)[x, z]
    if vertex[0] != x:
        axis, end = 0, (lower if on_y == y else upper)[x + 1, z]
    elif vertex[1] != on_y:
        axis, end = 1, upper[x, z]
    else:
        axis, end = 2, (lower if on_y == y else upper)[x, z + 1]
    vertex[axis] += begin / (begin - end) - 0.5
