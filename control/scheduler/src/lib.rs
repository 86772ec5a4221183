//! decide(snapshot, pod), pure, and the loop around it.
