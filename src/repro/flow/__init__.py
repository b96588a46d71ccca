"""Optical flow: computing it, storing it beside the frames, reading what other tools stored."""
