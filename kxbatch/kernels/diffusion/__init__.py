"""The mathematics of diffusion models: noise schedules, ways to sample, and the bound on the density; networks are callables."""

from kxbatch.kernels.diffusion.bound import Bound, variational_bound
from kxbatch.kernels.diffusion.decoders import Decoder, log_level_mass, log_normal
from kxbatch.kernels.diffusion.denoiser import Denoiser, Predict, guide
from kxbatch.kernels.diffusion.noise import START, RowNoise
from kxbatch.kernels.diffusion.ode import SOLVERS, Solver, decode, encode, slerp
from kxbatch.kernels.diffusion.predictions import (
    PREDICTIONS,
    WEIGHTINGS,
    Prediction,
    Weighting,
    loss_weights,
    target,
    x0_and_eps,
)
from kxbatch.kernels.diffusion.process import Posterior, noised, posterior, q_sample
from kxbatch.kernels.diffusion.sampling import noise_energy, sample
from kxbatch.kernels.diffusion.schedule import Schedule, ScheduleKind, at, make_schedule
from kxbatch.kernels.diffusion.times import spaced_times, time_pairs
from kxbatch.kernels.diffusion.transitions import AnalyticDpm, Ancestral, Ddim, Rule, Transition

__all__ = [
    "PREDICTIONS",
    "SOLVERS",
    "START",
    "WEIGHTINGS",
    "AnalyticDpm",
    "Ancestral",
    "Bound",
    "Ddim",
    "Decoder",
    "Denoiser",
    "Posterior",
    "Predict",
    "Prediction",
    "RowNoise",
    "Rule",
    "Schedule",
    "ScheduleKind",
    "Solver",
    "Transition",
    "Weighting",
    "at",
    "decode",
    "encode",
    "guide",
    "log_level_mass",
    "log_normal",
    "loss_weights",
    "make_schedule",
    "noise_energy",
    "noised",
    "posterior",
    "q_sample",
    "sample",
    "slerp",
    "spaced_times",
    "target",
    "time_pairs",
    "variational_bound",
    "x0_and_eps",
]
