"""Read, write, resample, window and analyse images and audio."""
