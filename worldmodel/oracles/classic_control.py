"""Gymnasium's classic control, deterministic after its reset, for N starts at once in torch float64.

Each function is a step: states [N, n] and the action as a number (a force or torque, or the index of a choice) -> the
next states, the rewards r_t [N] of arriving there, and where that ends the episode [N]. `constants` have the names of
Gymnasium's attributes. Source: `gymnasium.envs.classic_control`, version 1.4, whose order of operations is kept, so
that both agree to rounding.

MountainCarContinuous stores its state in float32 and Acrobot its start; here both are exact. Acrobot's angles are not
brought back to [-pi, pi], since nothing depends on whole turns.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Constants = Mapping[str, float]


class Arrival(NamedTuple):
    """What a step leads to."""

    state: Float[Tensor, "N n"]
    reward: Float[Tensor, " N"]
    ended: Bool[Tensor, " N"]


class Dynamics(NamedTuple):
    """A step, what is observed of a state, and which entries of a start are angles over a whole turn."""

    step: Callable[[Float[Tensor, "N n"], float, Constants], Arrival]
    observe: Callable[[Float[Tensor, "N n"]], Float[Tensor, "N d"]]
    circle: tuple[bool, ...]


def pendulum(state: Float[Tensor, "N 2"], torque: float, k: Constants) -> Arrival:
    """(angle, angular velocity), zero upright; the reward is that of the state before the step."""
    angle, speed = state.unbind(-1)
    turned = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    cost = turned**2 + 0.1 * speed**2 + 0.001 * torque**2
    push = 3 * k["g"] / (2 * k["l"]) * angle.sin() + 3.0 / (k["m"] * k["l"] ** 2) * torque
    speed = (speed + push * k["dt"]).clamp(-k["max_speed"], k["max_speed"])
    state = torch.stack([angle + speed * k["dt"], speed], -1)
    return Arrival(state, -cost, torch.zeros_like(cost, dtype=torch.bool))


def mountain_car(state: Float[Tensor, "N 2"], action: float, k: Constants) -> Arrival:
    """(position, velocity); three pushes."""
    push = (action - 1) * k["force"]
    state, ended = _drive(state, push, k["gravity"], k)
    return Arrival(state, torch.full_like(state[:, 0], -1.0), ended)


def mountain_car_continuous(state: Float[Tensor, "N 2"], force: float, k: Constants) -> Arrival:
    """(position, velocity); a force in [-1, 1]."""
    state, ended = _drive(state, force * k["power"], 0.0025, k)
    return Arrival(state, torch.where(ended, 100.0, 0.0).to(state) - 0.1 * force**2, ended)


def _drive(state: Tensor, push: float, gravity: float, k: Constants) -> tuple[Tensor, Tensor]:
    position, velocity = state.unbind(-1)
    velocity = velocity + (push + (3 * position).cos() * -gravity)
    velocity = velocity.clamp(-k["max_speed"], k["max_speed"])
    position = (position + velocity).clamp(k["min_position"], k["max_position"])
    velocity = torch.where((position == k["min_position"]) & (velocity < 0), 0.0, velocity)
    ended = (position >= k["goal_position"]) & (velocity >= k["goal_velocity"])
    return torch.stack([position, velocity], -1), ended


def pole(
    angle: Float[Tensor, " N"], speed: Float[Tensor, " N"], action: float, k: Constants
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Accelerations of the cart and of the pole, neither of which depends on where the cart is or how fast."""
    force = k["force_mag"] if action == 1 else -k["force_mag"]
    cos, sin = angle.cos(), angle.sin()
    common = (force + k["polemass_length"] * speed.square() * sin) / k["total_mass"]
    inertia = k["length"] * (4.0 / 3.0 - k["masspole"] * cos.square() / k["total_mass"])
    turning = (k["gravity"] * sin - cos * common) / inertia
    return common - k["polemass_length"] * turning * cos / k["total_mass"], turning


def cart_pole(state: Float[Tensor, "N 4"], action: float, k: Constants) -> Arrival:
    """(position, velocity, angle, angular velocity); pushed left or right, by Euler steps."""
    x, velocity, angle, speed = state.unbind(-1)
    push, turning = pole(angle, speed, action, k)
    tau = k["tau"]
    state = torch.stack([x + tau * velocity, velocity + tau * push, angle + tau * speed, speed + tau * turning], -1)
    ended = (state[:, 0].abs() > k["x_threshold"]) | (state[:, 2].abs() > k["theta_threshold_radians"])
    return Arrival(state, cart_pole_reward(ended, k), ended)


def cart_pole_reward(ended: Bool[Tensor, " N"], k: Constants) -> Float[Tensor, " N"]:
    """One for every step, or, as in Sutton and Barto's book, minus one for the last alone."""
    if k["_sutton_barto_reward"]:
        return -ended.double()
    return torch.ones_like(ended, dtype=torch.float64)


def acrobot(state: Float[Tensor, "N 4"], action: float, k: Constants) -> Arrival:
    """(two angles, two angular velocities), zero hanging; three torques, by one Runge-Kutta step of fourth order."""
    torque, dt = action - 1, k["dt"]
    k1 = _acrobot_slope(state, torque, k)
    k2 = _acrobot_slope(state + dt / 2 * k1, torque, k)
    k3 = _acrobot_slope(state + dt / 2 * k2, torque, k)
    k4 = _acrobot_slope(state + dt * k3, torque, k)
    state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    first = state[:, 2].clamp(-k["MAX_VEL_1"], k["MAX_VEL_1"])
    second = state[:, 3].clamp(-k["MAX_VEL_2"], k["MAX_VEL_2"])
    state = torch.stack([state[:, 0], state[:, 1], first, second], -1)
    ended = -state[:, 0].cos() - (state[:, 1] + state[:, 0]).cos() > 1.0
    return Arrival(state, torch.where(ended, 0.0, -1.0).double(), ended)


def _acrobot_slope(state: Float[Tensor, "N 4"], torque: float, k: Constants) -> Float[Tensor, "N 4"]:
    angle, bend, speed, bending = state.unbind(-1)
    m1, m2, l1, inertia = k["LINK_MASS_1"], k["LINK_MASS_2"], k["LINK_LENGTH_1"], k["LINK_MOI"]
    c1, c2, g = k["LINK_COM_POS_1"], k["LINK_COM_POS_2"], 9.8
    cos, sin = bend.cos(), bend.sin()
    d1 = m1 * c1**2 + m2 * (l1**2 + c2**2 + 2 * l1 * c2 * cos) + inertia + inertia
    d2 = m2 * (c2**2 + l1 * c2 * cos) + inertia
    phi2 = m2 * c2 * g * (angle + bend - math.pi / 2.0).cos()
    swing = -m2 * l1 * c2 * bending**2 * sin - 2 * m2 * l1 * c2 * bending * speed * sin
    phi1 = swing + (m1 * c1 + m2 * l1) * g * (angle - math.pi / 2).cos() + phi2
    pull = torque + d2 / d1 * phi1 - m2 * l1 * c2 * speed**2 * sin - phi2
    second = pull / (m2 * c2**2 + inertia - d2**2 / d1)
    return torch.stack([speed, bending, -(d2 * second + phi1) / d1, second], -1)


def _pendulum_seen(state: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
    return torch.stack([state[:, 0].cos(), state[:, 0].sin(), state[:, 1]], -1)


def _acrobot_seen(state: Float[Tensor, "N 4"]) -> Float[Tensor, "N 6"]:
    angle, bend = state[:, 0], state[:, 1]
    return torch.cat([torch.stack([angle.cos(), angle.sin(), bend.cos(), bend.sin()], -1), state[:, 2:]], -1)


def _itself(state: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
    return state


DYNAMICS: dict[str, Dynamics] = {
    "acrobot": Dynamics(acrobot, _acrobot_seen, (False,) * 4),
    "cart_pole": Dynamics(cart_pole, _itself, (False,) * 4),
    "mountain_car": Dynamics(mountain_car, _itself, (False,) * 2),
    "mountain_car_continuous": Dynamics(mountain_car_continuous, _itself, (False,) * 2),
    "pendulum": Dynamics(pendulum, _pendulum_seen, (True, False)),
}
