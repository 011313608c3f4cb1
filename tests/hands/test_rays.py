"""Properties of the camera, its rays and what they meet."""

import numpy as np

from ethand_utils.hands.amodal import amodal_masks
from ethand_utils.hands.raycast import Camera, Mesh, vertex_normals
from ethand_utils.labels import FRONT_LEFT, FRONT_RIGHT, LEFT, N_CLASSES, PALM, RIGHT

CAMERA = Camera((300.0, 300.0), (64.0, 64.0))
SIZE = 64  # px


def quad(depth: float, low: float, high: float) -> Mesh:
    """A wall at `depth` m that faces the camera, from x = `low` to x = `high` m, higher than the camera sees."""
    corners = np.array([[low, -9, depth], [low, 9, depth], [high, 9, depth], [high, -9, depth]], float)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))


def test_points_on_a_ray_project_to_its_pixel_centre():
    camera = Camera((210.0, 190.0), (30.0, 41.5))
    rays = camera.rays(SIZE)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    pixels = camera.project(rays.astype(float) * np.linspace(0.3, 2, SIZE**2)[:, None]).reshape(SIZE, SIZE, 2)
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([x, y], -1), atol=1e-3)


def test_image_x_goes_right_and_y_down():
    x, y = CAMERA.project(np.array([0.1, 0.05, 1.0]))
    assert (x > CAMERA.centre[0], y > CAMERA.centre[1]) == (True, True)


def test_crop_camera_agrees_with_the_original():
    points = np.random.default_rng(0).uniform([-0.2, -0.2, 0.8], [0.2, 0.2, 1.2], (50, 3))
    x, y, side, size = 17.0, -9.0, 81.0, 128
    crop = CAMERA.crop(x, y, side, size)
    np.testing.assert_allclose(crop.project(points), (CAMERA.project(points) - [x, y]) * size / side, atol=1e-9)


def test_hits_on_a_wall_have_its_depth_and_its_interpolated_position():
    wall, rays = quad(2.0, -9, 0), CAMERA.rays(128)
    hits = wall.first_hits(CAMERA, 128, rays)
    np.testing.assert_array_equal((hits.full_depth(128) < 1e3).reshape(128, 128)[0], np.arange(128) < 64)
    np.testing.assert_allclose(hits.depth * rays[hits.pixels, 2], 2.0, atol=1e-5)
    np.testing.assert_allclose(hits.interpolate(wall.vertices), rays[hits.pixels] * hits.depth[:, None], atol=1e-4)
    np.testing.assert_allclose(hits.full_depth(128)[hits.pixels], hits.depth)
    blocked = wall.blocks(np.zeros_like(rays), rays)
    np.testing.assert_array_equal(np.flatnonzero(blocked), hits.pixels)
    np.testing.assert_allclose(vertex_normals(wall.vertices, wall.faces), [[0, 0, -1]] * 4, atol=1e-12)
    some = hits.subset(hits.depth > np.median(hits.depth))
    assert 0 < len(some.pixels) < len(hits.pixels)
    assert set(some.pixels) <= set(hits.pixels)


def test_nearer_wall_is_in_front_and_both_keep_their_masks():
    rays = CAMERA.rays(128)
    near, far = quad(1.0, -9, 0.0), quad(2.0, -0.25, 9)
    hits = [mesh.first_hits(CAMERA, 128, rays) for mesh in (near, far)]
    palm = np.eye(N_CLASSES)[[PALM] * 4]
    masks, front = amodal_masks(hits, hits, [palm, palm], 128)
    near_columns, far_columns = masks[LEFT, 0] == PALM, masks[RIGHT, 0] == PALM
    assert (near_columns & far_columns).any()
    np.testing.assert_array_equal(front[0] == FRONT_LEFT, near_columns)
    np.testing.assert_array_equal(front[0] == FRONT_RIGHT, far_columns & ~near_columns)
    swapped, front_swapped = amodal_masks(hits[::-1], hits[::-1], [palm, palm], 128)
    np.testing.assert_array_equal(swapped, masks[::-1])
    np.testing.assert_array_equal(front_swapped, np.array([0, 2, 1])[front])


def test_rays_go_on_through_faces_that_are_not_to_be_seen():
    rays, both = CAMERA.rays(128), quad(1.0, -9, 0.0)
    corners = np.concatenate([quad(2.0, -9, 9).vertices, both.vertices])
    faces = np.concatenate([both.faces, both.faces + 4])  # the far wall's first
    mesh = Mesh(corners, faces)
    hits = mesh.first_hits(CAMERA, 128, rays)
    seen = mesh.through(rays, hits, 2)
    assert set(np.round(hits.depth * rays[hits.pixels, 2], 3)) == {1.0, 2.0}
    np.testing.assert_array_equal(np.sort(seen.pixels), np.arange(128 * 128))
    np.testing.assert_allclose(seen.depth * rays[seen.pixels, 2], 2.0, atol=1e-4)
    np.testing.assert_array_equal(mesh.through(rays, hits, 4).depth, hits.depth)


def test_distance_is_that_of_the_nearest_wall_ahead():
    wall = quad(2.0, -9, 9)
    assert np.isclose(wall.distance(np.zeros(3), np.array([0.0, 0, 1])), 2)
    assert np.isnan(wall.distance(np.zeros(3), np.array([0.0, 0, -1])))
