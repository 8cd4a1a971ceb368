"""Many runs as one thing: jobs that train and evaluate in processes of their own, and matrices of them (docs/study.md)."""
