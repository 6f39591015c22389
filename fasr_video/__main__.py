from fasr_video.cli import main

main()
