//! JSON, merge and strategic-merge patches and server-side apply; pure.
