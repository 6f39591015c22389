"""Motion of a face between frames: constant velocity with random acceleration, in seconds."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from filterpy.kalman import KalmanFilter
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Noise, in box sizes (the mean of width and height), so that near and far faces are treated alike.
MEASUREMENT = 0.12  # of each of x, y, width, height, in one detection
ACCELERATION = 2.0  # per second^1.5: how fast velocities change
JITTER = 0.10  # per second^0.5: movement of a head on the spot
START_SPEED = 2.0  # per second: how fast a new face may move

# Relative variances of x, y, width and height: sizes change more slowly than positions.
RELATIVE_VARIANCES = np.array([1, 1, 1 / 9, 1 / 9])

_POSITION, _SPEED = slice(0, 4), slice(4, 8)


def to_measurement(box: NDArray[np.floating]) -> Vector:
    """Convert x1, y1, x2, y2 to centre x, centre y, width, height."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def to_box(measurement: Vector) -> Vector:
    """Convert centre x, centre y, width, height to x1, y1, x2, y2; sides are at least 1 px."""
    x, y, width, height = measurement[:4]
    half_width = max(width, 1.0) / 2
    half_height = max(height, 1.0) / 2
    return np.array([x - half_width, y - half_height, x + half_width, y + half_height])


@lru_cache(maxsize=64)  # distances between frames repeat
def _step(seconds: float) -> tuple[Vector, Vector]:
    """Return the transition over `seconds`, and its noise for a box of size 1."""
    transition = np.eye(8)
    transition[_POSITION, _SPEED] = np.eye(4) * seconds
    variance = ACCELERATION**2 * RELATIVE_VARIANCES
    noise = np.zeros((8, 8))
    noise[_POSITION, _POSITION] = np.diag(variance * seconds**3 / 3 + JITTER**2 * seconds)
    noise[_POSITION, _SPEED] = noise[_SPEED, _POSITION] = np.diag(variance * seconds**2 / 2)
    noise[_SPEED, _SPEED] = np.diag(variance * seconds)
    return transition, noise


class MotionState(NamedTuple):
    """The state of a filter."""

    mean: Vector
    covariance: Vector
    size: float
    """Size of the box at the last update: the unit of the noise until the next update."""

    def as_json(self) -> list[Any]:
        return [self.mean.tolist(), self.covariance.tolist(), self.size]

    @staticmethod
    def from_json(values: list[Any]) -> MotionState:
        return MotionState(np.array(values[0]), np.array(values[1]), values[2])


class BoxFilter:
    """A Kalman filter over (centre, size) and their speeds.

    Predicting by a and then by b seconds is the same as predicting by a + b: variable frame rates
    and sampling do not change the motion.
    """

    def __init__(self, box: NDArray[np.floating]) -> None:
        self._filter = KalmanFilter(dim_x=8, dim_z=4)
        self._filter.H = np.eye(4, 8)
        measurement = to_measurement(box)
        self._size = float(max(measurement[2:].mean(), 1.0))
        self._filter.x = np.concatenate((measurement, np.zeros(4)))[:, None]
        variances = np.r_[np.full(4, (2 * MEASUREMENT) ** 2), START_SPEED**2 * RELATIVE_VARIANCES]
        self._filter.P = np.diag(variances) * self._size**2

    @property
    def box(self) -> Vector:
        return to_box(self._filter.x[:, 0])

    @property
    def speed(self) -> Vector:
        """Return the speed of the centre, x and y, in pixels a second."""
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
        self._filter.x = state.mean.copy()
        self._filter.P = state.covariance.copy()
        self._size = state.size
