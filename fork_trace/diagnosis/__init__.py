"""Why a fork failed, and what to do about it: the causes as objects, and what is derived from them. Pure."""
