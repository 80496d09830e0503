"""Methods of training that come in as hooks and objectives."""
