"""Pages that people look at: the frame, drawings and labels that all share, and a folder for each kind of page."""
