from gptoss_mlx.cli import main

main()
