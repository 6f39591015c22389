"""How a face moves between two looks at it: constant velocity with random acceleration, in real seconds."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from filterpy.kalman import KalmanFilter
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Noise, in box sizes (the mean of width and height), so that a near and a far face are treated alike.
MEASUREMENT = 0.12  # of each of x, y, width, height, in one detection
ACCELERATION = 2.0  # per second^1.5: how fast velocities change
JITTER = 0.10  # per second^0.5: what is no motion, as a head that bobs
START_SPEED = 2.0  # per second: how fast an unknown face may move

SIZE_CALM = np.array([1, 1, 1 / 9, 1 / 9])  # variances: sizes change more slowly than places

_POSITION, _SPEED = slice(0, 4), slice(4, 8)


def to_measurement(box: NDArray[np.floating]) -> Vector:
    """x1, y1, x2, y2 → centre x, centre y, width, height."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def to_box(measurement: Vector) -> Vector:
    cx, cy, w, h = measurement[:4]
    w, h = max(w, 1.0), max(h, 1.0)
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


@lru_cache(maxsize=64)  # frame distances repeat
def _step(seconds: float) -> tuple[Vector, Vector]:
    """(transition, noise for a box of size 1) of a look `seconds` later."""
    transition = np.eye(8)
    transition[_POSITION, _SPEED] = np.eye(4) * seconds
    spread = ACCELERATION**2 * SIZE_CALM
    noise = np.zeros((8, 8))
    noise[_POSITION, _POSITION] = np.diag(spread * seconds**3 / 3 + JITTER**2 * seconds)
    noise[_POSITION, _SPEED] = noise[_SPEED, _POSITION] = np.diag(spread * seconds**2 / 2)
    noise[_SPEED, _SPEED] = np.diag(spread * seconds)
    return transition, noise


class MotionState(NamedTuple):
    """All that a filter knows."""

    mean: Vector
    covariance: Vector
    size: float
    """Of the box at the last update: the unit of the noise until the next."""

    def as_json(self) -> list[Any]:
        return [self.mean.tolist(), self.covariance.tolist(), self.size]

    @staticmethod
    def from_json(values: list[Any]) -> MotionState:
        return MotionState(np.array(values[0]), np.array(values[1]), values[2])


class BoxFilter:
    """A Kalman filter over (centre, size) and their speeds. Predicting by a and then by b is predicting by a + b:
    variable frame rate and sampling do not bend the motion."""

    def __init__(self, box: NDArray[np.floating]) -> None:
        self._filter = KalmanFilter(dim_x=8, dim_z=4)
        self._filter.H = np.eye(4, 8)
        measurement = to_measurement(box)
        self._size = size = float(max(measurement[2:].mean(), 1.0))
        self._filter.x = np.concatenate((measurement, np.zeros(4)))[:, None]
        self._filter.P = (
            np.diag(np.r_[np.full(4, (2 * MEASUREMENT) ** 2), START_SPEED**2 * SIZE_CALM]) * size**2
        )

    @property
    def box(self) -> Vector:
        return to_box(self._filter.x[:, 0])

    @property
    def speed(self) -> Vector:
        """Of centre x and y, in pixels a second."""
        return np.asarray(self._filter.x[4:6, 0])

    def predict(self, seconds: float) -> None:
        if seconds > 0:
            transition, noise = _step(seconds)
            self._filter.predict(F=transition, Q=noise * self._size**2)

    def update(self, box: NDArray[np.floating]) -> None:
        self._filter.update(to_measurement(box)[:, None], R=(MEASUREMENT * self._size) ** 2)
        self._size = float(max(self._filter.x[2:4, 0].mean(), 1.0))

    def state(self) -> MotionState:
        return MotionState(self._filter.x.copy(), self._filter.P.copy(), self._size)

    def restore(self, state: MotionState) -> None:
        self._filter.x, self._filter.P = state.mean.copy(), state.covariance.copy()
        self._size = state.size
