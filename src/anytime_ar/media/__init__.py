"""Images and audio as files and bytes: read, write, resample, window, analyse."""
