"""Many runs under one budget: the plan, the runner, the comparison and its results."""
