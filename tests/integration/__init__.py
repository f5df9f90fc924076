"""Tests of the public faces, as a user meets them, on every start method."""
