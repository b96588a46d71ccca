"""Data sets, video files, frame sampling and augmentation."""
