"""Image to Detections: RetinaFace, its anchors, its codec and its two backends."""
